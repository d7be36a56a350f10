// out = x * (1 / sqrt(mean(x^2) + eps)) * weight; mirrors Kernels::rms_norm.
// One workgroup for each vector of `width` elements; workgroup (n, row) takes vector n of a row.

struct Params {
    // arena: [rows][times][width]
    x: u32,
    // small: [width]
    weight: u32,
    // arena: [rows][times][width]
    out: u32,
    width: u32,
    times: u32,
    eps: f32,
}

@group(0) @binding(2) var<uniform> p: Params;

const LANES = 64u;
var<workgroup> sums: array<f32, 16>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = (group.y * p.times + group.x) * p.width;
    // Element i in lane i % 16, ascending; then a tree.
    if lane < 16u {
        var sum = 0.0;
        for (var i = lane; i < p.width; i += 16u) {
            let x = load(p.x + start + i);
            sum = fused(x, x, sum);
        }
        sums[lane] = sum;
    }
    for (var half = 8u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            sums[lane] += sums[lane + half];
        }
    }
    workgroupBarrier();
    let scale = divide(1.0, root(divide(sums[0], f32(p.width)) + p.eps));
    for (var i = lane; i < p.width; i += LANES) {
        store(p.out + start + i, load(p.x + start + i) * scale * small[p.weight + i]);
    }
}
