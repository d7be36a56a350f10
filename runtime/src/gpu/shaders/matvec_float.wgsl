// One row times a f32 or f16 matrix: what one lane sums up, every SLICES-th element along K for four rows.

fn sum_of(m: u32, row_block: u32, slice: u32, q: u32) -> vec4<f32> {
    var acc = vec4(0.0, 0.0, 0.0, 0.0);
    for (var k = slice; k < p.k; k += SLICES) {
        acc = fused4(weight(m, row_block, k, q), vec4(load(p.x + k)), acc);
    }
    return acc;
}

