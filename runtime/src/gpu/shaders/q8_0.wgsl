// q8_0: 16 rows x 64 k, 1088 B (layout.rs). Value: a * code.
const BLOCK = 68u;
const BLOCK_GROUPS = 2u;
// Whether links have minima, and the room for them.
const MINIMA = false;
const MINIMA_ROOM = 1u;

// The scales of a group, for four rows.
struct Scales {
    a: vec4<f32>,
}

fn codes(m: u32, base: u32, g: u32, q: u32, j: u32) -> Codes {
    let at = base + 4u + 32u * g + 4u * j + q;
    return Codes(word(m, at), word(m, at + 16u));
}

fn scales(m: u32, base: u32, g: u32, q: u32) -> Scales {
    return Scales(halves(m, base + 2u * g, q));
}

// The link of a group, from the dot products of the codes of its halves, the scale of the activations and the sums of their
// halves.
fn link(s: Scales, first: vec4<i32>, second: vec4<i32>, x_scale: f32, sums: vec2<i32>) -> Link {
    return Link(vec4<f32>(first + second), s.a * x_scale, vec4<f32>(), 0.0);
}

// acc, one link further.
fn advance(acc: vec4<f32>, l: Link) -> vec4<f32> {
    return fused4(l.isum, l.scale, acc);
}

// Four values of one row out of half `h` of a group.
fn value(s: Scales, row: u32, h: u32, code: u32) -> vec4<f32> {
    return s.a[row] * vec4<f32>(unpack4xI8(code));
}

