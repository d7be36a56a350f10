// One row times a f32 or f16 matrix, every sum in the order of Kernels::matmul: a lane takes four rows, a workgroup 16
// row-blocks.

const SLICES = 1u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = 16u * group.x + lane / 4u;
    if block >= p.row_blocks {
        return;
    }
    let q = lane % 4u;
    let sum = sum_of(0u, block * p.row_block, 0u, q);
    var other = sum;
    if PAIR {
        other = sum_of(1u, block * p.row_block, 0u, q);
    }
    finish(0u, p.first + 16u * block + 4u * q, sum, other);
}
