// f32: 16 rows x 1 k, 64 B (layout.rs).

// vec4 of one k of a row-block.
const STEP = 4u;

// Element k of the four rows 4 q .. 4 q + 4 of the row-block that begins at vec4 `base`.
fn weight(m: u32, base: u32, k: u32, q: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(word(m, base + 4u * k + q));
}

