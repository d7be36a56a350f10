// Elements k .. k + 4 of row 4 q + r of a row-block.
fn four(base: u32, q: u32, r: u32, k: u32) -> vec4<f32> {
    let block = base + k / (32u * BLOCK_GROUPS) * BLOCK;
    let g = k / 32u % BLOCK_GROUPS;
    let quad = k / 4u % 8u;
    let c = codes(0u, block, g, q, quad % 4u);
    let h = quad / 4u;
    return value(scales(0u, block, g, q), r, h, select(c.low[r], c.high[r], h == 1u));
}

