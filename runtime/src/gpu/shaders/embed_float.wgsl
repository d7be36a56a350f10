// Elements k .. k + 4 of row 4 q + r of a row-block.
fn four(base: u32, q: u32, r: u32, k: u32) -> vec4<f32> {
    var values = vec4(0.0, 0.0, 0.0, 0.0);
    for (var i = 0u; i < min(4u, p.k - k); i++) {
        values[i] = weight(0u, base, k + i, q)[r];
    }
    return values;
}

