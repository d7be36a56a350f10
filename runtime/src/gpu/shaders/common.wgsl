// What every shader begins with: the arena, what a call is about, and the small weights.

struct Call {
    // Rows of this pass: tokens of the chunk, or after LastRow the chosen rows.
    rows: u32,
    // Positions taken before the chunk.
    past: u32,
    // First chosen row of the chunk (for LastRow).
    first: u32,
    // Positions that the states have room for.
    context: u32,
    // The ids of the chunk, four to a vector.
    tokens: array<vec4<u32>, 256>,
}

// The plan's arena, in 4-byte elements.
@group(0) @binding(0) var<storage, read_write> arena: array<u32>;
@group(0) @binding(1) var<uniform> call: Call;
// All vectors and convolution kernels, one after another.
@group(0) @binding(3) var<storage, read> small: array<f32>;

fn load(at: u32) -> f32 {
    return bitcast<f32>(arena[at]);
}

fn store(at: u32, x: f32) {
    arena[at] = bitcast<u32>(x);
}

// What follows is math.rs of cpu/kernels, operation by operation, with what arithmetic_*.wgsl defines.

// e^x: 0 below -87, e^88 above 88.
fn exp4(x: vec4<f32>) -> vec4<f32> {
    let c = min(max(x, vec4(-87.0)), vec4(88.0));
    let n = nearest4(c, vec4(1.4426950216293335));
    var r = fused4(n, vec4(-0.693359375), c);
    r = fused4(n, vec4(0.00021219444170128554), r);
    var p = fused4(vec4(0.0013814466074109077), r, vec4(0.008368780836462975));
    p = fused4(p, r, vec4(0.04166839271783829));
    p = fused4(p, r, vec4(0.1666651964187622));
    p = fused4(p, r, vec4(0.4999999403953552));
    p = fused4(p, r, vec4(1.0));
    p = fused4(p, r, vec4(1.0));
    let y = bitcast<vec4<f32>>(bitcast<vec4<i32>>(p) + (vec4<i32>(n) << vec4(23u)));
    return select(vec4(0.0), y, x >= vec4(-87.0));
}

// 1 / (1 + e^-x)
fn sigmoid(x: f32) -> f32 {
    return divide(1.0, 1.0 + exp4(vec4(-x)).x);
}

// gate / (1 + e^-gate) * up
fn gated(gate: vec4<f32>, up: vec4<f32>) -> vec4<f32> {
    return divide4(gate, 1.0 + exp4(-gate)) * up;
}

