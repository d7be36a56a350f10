// Many rows times a f32 or f16 matrix; mirrors Kernels::matmul.
// A workgroup takes 64 rows of the matrix and 32 rows of x, 16 k at a time; a lane 4 x 4 of these.

// [16 k][16 times 4 rows]
var<workgroup> tile: array<vec4<f32>, 256>;
// [16 k][32 tokens]
var<workgroup> x: array<f32, 512>;

// K beyond the last is zero; tokens beyond the last repeat it, and nothing is written of them.
fn load_x(first_token: u32, k: u32, lane: u32) {
    let t = lane / 4u;
    let token = p.x + min(first_token + t, call.rows - 1u) * p.token;
    for (var i = 0u; i < 4u; i++) {
        let n = 4u * (lane % 4u) + i;
        var v = 0.0;
        if k + n < p.k {
            v = load(token + k + n);
        }
        x[32u * n + t] = v;
    }
}

// Row-blocks beyond the last repeat it.
fn load_weights(m: u32, first_block: u32, k: u32, lane: u32) {
    let four = lane % 16u;
    let base = min(first_block + four / 4u, p.row_blocks - 1u) * p.row_block;
    for (var i = 0u; i < 2u; i++) {
        let n = 8u * i + lane / 16u;
        var v = vec4(0.0, 0.0, 0.0, 0.0);
        if k + n < p.k {
            v = weight(m, base, k + n, four % 4u);
        }
        tile[16u * n + four] = v;
    }
}

fn products(m: u32, first_block: u32, first_token: u32, lane: u32) -> array<vec4<f32>, 4> {
    let four = lane % 16u;
    let t = 4u * (lane / 16u);
    var acc0 = vec4(0.0, 0.0, 0.0, 0.0);
    var acc1 = acc0;
    var acc2 = acc0;
    var acc3 = acc0;
    for (var k = 0u; k < p.k; k += 16u) {
        workgroupBarrier();
        load_x(first_token, k, lane);
        load_weights(m, first_block, k, lane);
        workgroupBarrier();
        for (var n = 0u; n < 16u; n++) {
            let v = tile[16u * n + four];
            let at = 32u * n + t;
            acc0 = fused4(v, vec4(x[at]), acc0);
            acc1 = fused4(v, vec4(x[at + 1u]), acc1);
            acc2 = fused4(v, vec4(x[at + 2u]), acc2);
            acc3 = fused4(v, vec4(x[at + 3u]), acc3);
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
