// Each token's sum over its experts: mirrors the `axpy`s of `Executor::experts_out` of exec/moe.rs.
//
//   out = 0;  for its experts ascending: out = fma(weight, y, out);  out += residual, if there is one

struct Params {
    width: u32,
    top: u32,
    y: u32,         // arena: [rows * top][width]: slots by token, each token's ascending by expert
    weights: u32,   // arena: [rows][top]
    out: u32,       // arena: [rows][width]
    residual: u32,  // the same
    has_residual: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let d = id.x;
    let token = id.y;
    if d >= p.width {
        return;
    }
    var total = 0.0;
    for (var i = 0u; i < p.top; i++) {
        let slot = token * p.top + i;
        total = fused(load(p.weights + slot), load(p.y + slot * p.width + d), total);
    }
    if p.has_residual != 0u {
        total += load(p.residual + token * p.width + d);
    }
    store(p.out + token * p.width + d, total);
}
