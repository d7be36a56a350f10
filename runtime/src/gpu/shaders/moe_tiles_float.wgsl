// Products of tiles of slots with their expert, f32 or f16: mirrors `Executor::experts_in`, or the products of
// `experts_out`, of exec/moe.rs. As moe_tiles.wgsl, with rows of floats, 32 elements of K at a time.

override PAIR: bool = false;

const TILE = 32u;
const LANES = 128u;
const STEP_K = 32u;

var<workgroup> rows: array<u32, 32>;       // [slot]: where its row of x begins in the arena
var<workgroup> xs: array<vec4<f32>, 256>;  // [k][8 times 4 slots]

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let expert = arena[p.tiles + 2u * id.y];
    let begin = arena[p.tiles + 2u * id.y + 1u];
    let held = holds(expert);
    let end = min(arena[p.starts + expert + 1u], begin + TILE);
    let four = me % 16u;
    let some = me / 16u;
    let block = 4u * id.x + four / 4u;
    let real = held && 16u * block < p.rows;
    let row_block = (expert - p.first) * p.stride + block * p.row_block;
    if me < TILE {
        var row = arena[p.order + min(begin + me, end - 1u)];
        if PAIR {
            row /= p.top;
        }
        rows[me] = p.x + row * p.token;
    }

    var gate = array<vec4<f32>, 4>();
    var up = array<vec4<f32>, 4>();
    for (var base = 0u; base < p.k; base += STEP_K) {
        workgroupBarrier();
        for (var i = me; i < 256u; i += LANES) {
            let k = base + i % STEP_K;
            if k < p.k {
                let s = 4u * (i / STEP_K);
                xs[i % STEP_K * 8u + i / STEP_K] =
                    vec4(load(rows[s] + k), load(rows[s + 1u] + k), load(rows[s + 2u] + k), load(rows[s + 3u] + k));
            }
        }
        workgroupBarrier();
        if real {
            for (var n = 0u; n < min(STEP_K, p.k - base); n++) {
                let x = xs[8u * n + some];
                let a = weight(0u, row_block, base + n, four % 4u);
                gate[0] = fused4(a, x.xxxx, gate[0]);
                gate[1] = fused4(a, x.yyyy, gate[1]);
                gate[2] = fused4(a, x.zzzz, gate[2]);
                gate[3] = fused4(a, x.wwww, gate[3]);
                if PAIR {
                    let b = weight(1u, row_block, base + n, four % 4u);
                    up[0] = fused4(b, x.xxxx, up[0]);
                    up[1] = fused4(b, x.yyyy, up[1]);
                    up[2] = fused4(b, x.zzzz, up[2]);
                    up[3] = fused4(b, x.wwww, up[3]);
                }
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        let place = begin + 4u * some + i;
        if held && place < end {
            var y = gate[i];
            if PAIR {
                y = gated(y, up[i]);
            }
            let to = p.out + arena[p.order + place] * p.token_out;
            for (var n = 0u; n < 4u; n++) {
                let r = 64u * id.x + 4u * four + n;
                if r < p.rows {
                    store(to + r, y[n]);
                }
            }
        }
    }
}
