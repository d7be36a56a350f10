// Cosines and sines come from the host, which has f64; mirrors Executor::rope_table. Workgroup (n, row).

struct Params {
    // arena: [rows][half]
    cos: u32,
    sin: u32,
    half: u32,
}

@group(0) @binding(2) var<uniform> p: Params;
// [rows][2][half]: cosines, then sines
@group(1) @binding(0) var<storage, read> table: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = 64u * group.x + lane;
    if i < p.half {
        store(p.cos + group.y * p.half + i, table[2u * group.y * p.half + i]);
        store(p.sin + group.y * p.half + i, table[(2u * group.y + 1u) * p.half + i]);
    }
}
