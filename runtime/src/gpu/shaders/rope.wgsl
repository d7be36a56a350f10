// Rotary embedding of every head; mirrors Kernels::rope. Workgroup (n, row) turns 64 pairs.

struct Params {
    // arena: [rows][width]
    x: u32,
    // arena: [rows][width]
    out: u32,
    width: u32,
    // arena: [rows][half]
    cos: u32,
    sin: u32,
    half: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pair = 64u * group.x + lane;
    if 2u * pair >= p.width {
        return;
    }
    let i = pair % p.half;
    let first = group.y * p.width + pair / p.half * 2u * p.half + i;
    let x1 = load(p.x + first);
    let x2 = load(p.x + first + p.half);
    let c = load(p.cos + group.y * p.half + i);
    let s = load(p.sin + group.y * p.half + i);
    store(p.out + first, fused(x1, c, -(x2 * s)));
    store(p.out + first + p.half, fused(x2, c, x1 * s));
}
