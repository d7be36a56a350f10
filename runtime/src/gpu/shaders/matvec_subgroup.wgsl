// One row times a matrix; mirrors Kernels::matmul of one token.
// A workgroup takes a row-block: 4 lanes of 4 rows, times SLICES slices along K, which are added in subgroups of 4 to 64
// lanes first. Lanes are numbered by subgroup, so nothing is assumed of which lanes make one, but that all are full.

const SLICES = 16u;
// [subgroup][4 times 4 rows]
var<workgroup> parts: array<vec4<f32>, 64>;
var<workgroup> others: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) inside: u32,
) {
    let lane = subgroup * size + inside;
    let q = lane % 4u;
    let row_block = group.x * p.row_block;
    var sum = sum_of(0u, row_block, lane / 4u, q);
    var other = sum;
    if PAIR {
        other = sum_of(1u, row_block, lane / 4u, q);
    }
    for (var apart = 4u; apart < size; apart *= 2u) {
        sum += subgroupShuffleXor(sum, apart);
        if PAIR {
            other += subgroupShuffleXor(other, apart);
        }
    }
    if inside < 4u {
        parts[4u * subgroup + q] = sum;
        others[4u * subgroup + q] = other;
    }
    workgroupBarrier();
    if lane < 4u {
        sum = parts[lane];
        other = others[lane];
        for (var i = 1u; i < 64u / size; i++) {
            sum += parts[4u * i + lane];
            other += others[4u * i + lane];
        }
        finish(0u, p.first + 16u * group.x + 4u * lane, sum, other);
    }
}
