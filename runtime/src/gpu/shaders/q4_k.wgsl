// q4_k: 16 rows x 256 k, 2368 B (layout.rs). Value: a * code - b.
const BLOCK = 148u;
const BLOCK_GROUPS = 8u;
// Whether links have minima, and the room for them.
const MINIMA = true;
const MINIMA_ROOM = 256u;

// The scales and minima of a group, for four rows.
struct Scales {
    a: vec4<f32>,
    b: vec4<f32>,
}

fn codes(m: u32, base: u32, g: u32, q: u32, j: u32) -> Codes {
    let v = word(m, base + 8u + 36u * (g / 2u) + 16u * (g % 2u) + 4u * j + q);
    return Codes(v & splat(0x0f0f0f0fu), (v >> splat(4u)) & splat(0x0f0f0f0fu));
}

fn scales(m: u32, base: u32, g: u32, q: u32) -> Scales {
    let at = base + 4u + 36u * (g / 2u) + 2u * (g % 2u);
    let scale = unpack4xU8(word(m, at)[q]);
    let minimum = unpack4xU8(word(m, at + 1u)[q]);
    return Scales(halves(m, base, q) * vec4<f32>(scale), halves(m, base + 2u, q) * vec4<f32>(minimum));
}

// The link of a group, from the dot products of the codes of its halves, the scale of the activations and the sums of their
// halves.
fn link(s: Scales, first: vec4<i32>, second: vec4<i32>, x_scale: f32, sums: vec2<i32>) -> Link {
    return Link(vec4<f32>(first + second), s.a * x_scale, s.b, x_scale * f32(sums.x + sums.y));
}

// acc, one link further.
fn advance(acc: vec4<f32>, l: Link) -> vec4<f32> {
    return fused4(-l.minimum, vec4(l.x_sum), fused4(l.isum, l.scale, acc));
}

// Four values of one row out of half `h` of a group.
fn value(s: Scales, row: u32, h: u32, code: u32) -> vec4<f32> {
    return s.a[row] * vec4<f32>(unpack4xU8(code)) - s.b[row];
}

