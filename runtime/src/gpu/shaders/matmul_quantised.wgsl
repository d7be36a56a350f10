// Many rows times a quantised matrix; mirrors Kernels::matmul.
// A workgroup takes 64 rows of the matrix and 32 rows of x, two groups along K at a time; a lane 4 x 4 of these.

// [2 groups][8 quads][16 times 4 rows]
var<workgroup> tile: array<vec4<u32>, 256>;
// [2 groups][8 quads][32 tokens]
var<workgroup> x: array<u32, 512>;
// [2 groups][16 times 4 rows]
var<workgroup> scale: array<Scales, 32>;
// [2 groups][32 tokens]
var<workgroup> x_scale: array<f32, 64>;
var<workgroup> x_sums: array<vec2<i32>, 64>;

fn load_x(first_token: u32, g: u32, lane: u32) {
    // 4 lanes a token, 4 words of the 16 of two groups each. Tokens beyond the last repeat it; nothing of them is written.
    let t = lane / 4u;
    let token = p.x + min(first_token + t, call.rows - 1u) * p.token;
    for (var i = 0u; i < 4u; i++) {
        let n = 4u * (lane % 4u) + i;
        x[32u * n + t] = arena[token + 8u * g + n];
    }
    if lane % 4u < 2u {
        let n = lane % 4u;
        x_scale[32u * n + t] = load(token + 8u * p.k + g + n);
        x_sums[32u * n + t] = unpack_sums(arena[token + 9u * p.k + g + n]);
    }
}

// Row-blocks beyond the last repeat it.
fn load_weights(m: u32, first_block: u32, g: u32, lane: u32) {
    let n = lane / 64u;
    let j = lane / 16u % 4u;
    let four = lane % 16u;
    let block = min(first_block + four / 4u, p.row_blocks - 1u);
    let base = block * p.row_block + g / BLOCK_GROUPS * BLOCK;
    let c = codes(m, base, (g + n) % BLOCK_GROUPS, four % 4u, j);
    tile[(8u * n + j) * 16u + four] = c.low;
    tile[(8u * n + 4u + j) * 16u + four] = c.high;
    if j == 0u {
        scale[16u * n + four] = scales(m, base, (g + n) % BLOCK_GROUPS, four % 4u);
    }
}

fn products(m: u32, first_block: u32, first_token: u32, lane: u32) -> array<vec4<f32>, 4> {
    let four = lane % 16u;
    let t = 4u * (lane / 16u);
    var acc0 = vec4(0.0, 0.0, 0.0, 0.0);
    var acc1 = acc0;
    var acc2 = acc0;
    var acc3 = acc0;
    for (var g = 0u; g < p.groups; g += 2u) {
        workgroupBarrier();
        load_x(first_token, g, lane);
        load_weights(m, first_block, g, lane);
        workgroupBarrier();
        for (var n = 0u; n < 2u; n++) {
            var a0 = vec4(0, 0, 0, 0);
            var a1 = a0;
            var a2 = a0;
            var a3 = a0;
            var b0 = a0;
            var b1 = a0;
            var b2 = a0;
            var b3 = a0;
            for (var j = 0u; j < 4u; j++) {
                let v = tile[(8u * n + j) * 16u + four];
                let at = 32u * (8u * n + j) + t;
                a0 += dot4(v, x[at]);
                a1 += dot4(v, x[at + 1u]);
                a2 += dot4(v, x[at + 2u]);
                a3 += dot4(v, x[at + 3u]);
                let u = tile[(8u * n + 4u + j) * 16u + four];
                b0 += dot4(u, x[at + 128u]);
                b1 += dot4(u, x[at + 129u]);
                b2 += dot4(u, x[at + 130u]);
                b3 += dot4(u, x[at + 131u]);
            }
            let s = scale[16u * n + four];
            let i = 32u * n + t;
            acc0 = advance(acc0, link(s, a0, b0, x_scale[i], x_sums[i]));
            acc1 = advance(acc1, link(s, a1, b1, x_scale[i + 1u], x_sums[i + 1u]));
            acc2 = advance(acc2, link(s, a2, b2, x_scale[i + 2u], x_sums[i + 2u]));
            acc3 = advance(acc3, link(s, a3, b3, x_scale[i + 3u], x_sums[i + 3u]));
        }
    }
    return array(acc0, acc1, acc2, acc3);
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first_block = 4u * group.x;
    let first_token = 32u * group.y;
    let sums = products(0u, first_block, first_token, lane);
    var others = sums;
    if PAIR {
        others = products(1u, first_block, first_token, lane);
    }
    let row = p.first + 16u * first_block + 4u * (lane % 16u);
    let token = first_token + 4u * (lane / 16u);
    for (var i = 0u; i < 4u; i++) {
        if token + i < call.rows {
            finish(token + i, row, sums[i], others[i]);
        }
    }
}
