// One row times a matrix; mirrors Kernels::matmul of one token.
// A workgroup takes a row-block: 4 lanes of 4 rows, times SLICES slices along K, which are added in workgroup memory.

const SLICES = 16u;
var<workgroup> parts: array<vec4<f32>, 64>;
var<workgroup> others: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let q = lane % 4u;
    let row_block = group.x * p.row_block;
    parts[lane] = sum_of(0u, row_block, lane / 4u, q);
    if PAIR {
        others[lane] = sum_of(1u, row_block, lane / 4u, q);
    }
    for (var half = 32u; half >= 4u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            parts[lane] += parts[lane + half];
            if PAIR {
                others[lane] += others[lane + half];
            }
        }
    }
    if lane < 4u {
        finish(0u, p.first + 16u * group.x + 4u * lane, parts[lane], others[lane]);
    }
}
