// out = a + b; mirrors Kernels::add.

struct Params {
    // arena: [rows][width]
    a: u32,
    b: u32,
    out: u32,
    width: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.width {
        let at = id.y * p.width + id.x;
        store(p.out + at, load(p.a + at) + load(p.b + at));
    }
}
