// q6_k: 16 rows x 256 k, 3392 B (layout.rs). Value: d * (sub * (code - 32)).
const BLOCK = 212u;
const BLOCK_GROUPS = 8u;
// Whether links have minima, and the room for them.
const MINIMA = false;
const MINIMA_ROOM = 1u;

// The scale of a block, and the sub-scales of the halves of a group, for four rows.
struct Scales {
    d: vec4<f32>,
    first: vec4<i32>,
    second: vec4<i32>,
}

fn codes(m: u32, base: u32, g: u32, q: u32, j: u32) -> Codes {
    let group = base + 8u + 52u * (g / 2u) + 24u * (g % 2u) + q;
    let low = word(m, group + 8u + 4u * j);
    let shift = splat(2u * j);
    let first = (word(m, group) >> shift) & splat(0x03030303u);
    let second = (word(m, group + 4u) >> shift) & splat(0x03030303u);
    return Codes(
        (low & splat(0x0f0f0f0fu)) | (first << splat(4u)),
        ((low >> splat(4u)) & splat(0x0f0f0f0fu)) | (second << splat(4u)),
    );
}

fn scales(m: u32, base: u32, g: u32, q: u32) -> Scales {
    let d = bitcast<vec4<f32>>(word(m, base + q));
    let sub = base + 4u + 52u * (g / 2u) + 2u * (g % 2u);
    let first = unpack4xI8(word(m, sub)[q]);
    let second = unpack4xI8(word(m, sub + 1u)[q]);
    return Scales(d, first, second);
}

// The link of a group, from the dot products of the codes of its halves, the scale of the activations and the sums of their
// halves.
fn link(s: Scales, first: vec4<i32>, second: vec4<i32>, x_scale: f32, sums: vec2<i32>) -> Link {
    let isum = s.first * (first - vec4(32 * sums.x)) + s.second * (second - vec4(32 * sums.y));
    return Link(vec4<f32>(isum), s.d * x_scale, vec4<f32>(), 0.0);
}

// acc, one link further.
fn advance(acc: vec4<f32>, l: Link) -> vec4<f32> {
    return fused4(l.isum, l.scale, acc);
}

// Four values of one row out of half `h` of a group.
fn value(s: Scales, row: u32, h: u32, code: u32) -> vec4<f32> {
    let sub = f32(select(s.first[row], s.second[row], h == 1u));
    return s.d[row] * (sub * (vec4<f32>(unpack4xU8(code)) - 32.0));
}

