// Rows of an embedding table; mirrors Kernels::row. Workgroup (n, row) writes 256 elements of a token's row.

struct Params {
    // arena: [rows][k] f32
    out: u32,
    k: u32,
    // vec4 of a row-block
    row_block: u32,
    // rows of the table that this piece holds
    first: u32,
    end: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = call.tokens[group.y / 4u][group.y % 4u];
    if id < p.first || id >= p.end {
        return;
    }
    let row = (id - p.first) % 16u;
    let base = (id - p.first) / 16u * p.row_block;
    let k = 256u * group.x + 4u * lane;
    if k >= p.k {
        return;
    }
    let values = four(base, row / 4u, row % 4u, k);
    for (var i = 0u; i < min(4u, p.k - k); i++) {
        store(p.out + group.y * p.k + k + i, values[i]);
    }
}
