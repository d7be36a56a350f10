// f16: 16 rows x 1 k, 32 B (layout.rs).

// vec4 of one k of a row-block.
const STEP = 2u;

// Element k of the four rows 4 q .. 4 q + 4 of the row-block that begins at vec4 `base`.
fn weight(m: u32, base: u32, k: u32, q: u32) -> vec4<f32> {
    let v = word(m, base + 2u * k + q / 2u);
    let h = select(v.xy, v.zw, (q & 1u) == 1u);
    return vec4(unpack2x16float(h.x), unpack2x16float(h.y));
}

