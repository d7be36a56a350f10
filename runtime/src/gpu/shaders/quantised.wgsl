// What the quantised formats share. `base` is the vec4 at which a block begins, g a group of 32 in it, q the four rows
// 4 q .. 4 q + 4 of its row-block.

// The stored codes of quads j and 4 + j of a group, for four rows.
struct Codes {
    low: vec4<u32>,
    high: vec4<u32>,
}

// The sums of the int8 of the halves of a group of activations, of the word that holds both.
fn unpack_sums(packed: u32) -> vec2<i32> {
    let both = bitcast<i32>(packed);
    return vec2((both << 16u) >> 16u, both >> 16u);
}

// One link of the chain of four rows: what group of weights and group of activations add.
//
//   acc = fma(f32(isum), scale, acc);  with minima also  acc = fma(-minimum, x_sum, acc)
struct Link {
    // the exact dot product
    isum: vec4<f32>,
    // scale of the weights times that of the activations
    scale: vec4<f32>,
    minimum: vec4<f32>,
    // scaled sum of the activations
    x_sum: f32,
}

// Two finite f16, widened. Scales below 2^-14 are usual in q4_k, and `unpack2x16float` may flush them to zero.
fn widened(h: u32) -> vec2<f32> {
    let bits = vec2(h, h >> 16u) & vec2(0x7fffu);
    let sign = vec2(h << 16u, h) & vec2(0x80000000u);
    let usual = bitcast<vec2<f32>>((bits << vec2(13u)) + vec2(0x38000000u));
    let x = select(usual, vec2<f32>(bits) * 5.9604644775390625e-8, bits < vec2(0x400u));
    return bitcast<vec2<f32>>(bitcast<vec2<u32>>(x) | sign);
}

// Four f16 of [16 rows], 32 bytes that begin at vec4 `at`.
fn halves(m: u32, at: u32, q: u32) -> vec4<f32> {
    let v = word(m, at + q / 2u);
    let h = select(v.xy, v.zw, (q & 1u) == 1u);
    return vec4(widened(h.x), widened(h.y));
}

fn splat(x: u32) -> vec4<u32> {
    return vec4(x, x, x, x);
}

// The int8 of four rows times four of a token.
fn dot4(w: vec4<u32>, x: u32) -> vec4<i32> {
    return vec4(dot4I8Packed(w.x, x), dot4I8Packed(w.y, x), dot4I8Packed(w.z, x), dot4I8Packed(w.w, x));
}

