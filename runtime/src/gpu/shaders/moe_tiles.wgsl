// Products of tiles of slots with their expert, quantised: mirrors `Executor::experts_in` and `quantize_hidden`, or the
// products of `experts_out`, of exec/moe.rs.
//
//   PAIR      out[slot] = int8 form of silu(gate . x[token]) * (up . x[token])
//   not PAIR  out[slot] = down . x[slot]
//
// Workgroup (n, tile): 64 rows from row 64 n, and the 32 slots of the tile. A lane is 4 rows and 4 slots; of x, 4 groups
// at a time lie in workgroup memory. What a short tile lacks repeats its last slot, and is not written.

override PAIR: bool = false;

const TILE = 32u;
const LANES = 128u;
const GROUPS = 4u;

var<workgroup> rows: array<u32, 32>;           // [slot]: where its row of x begins in the arena
var<workgroup> xs: array<vec4<u32>, 256>;      // [group][word][8 times 4 slots]
var<workgroup> x_scales: array<vec4<f32>, 32>; // [group][8 times 4 slots]
var<workgroup> x_sums: array<vec4<u32>, 32>;   // the same, sums of both halves packed
var<workgroup> hidden: array<vec4<f32>, 544>;  // [slot][16 times 4 rows, and one to spread the banks]

// One word of each of four slots, `at` words into their rows.
fn gather(some: u32, at: u32) -> vec4<u32> {
    return vec4(
        arena[rows[4u * some] + at],
        arena[rows[4u * some + 1u] + at],
        arena[rows[4u * some + 2u] + at],
        arena[rows[4u * some + 3u] + at],
    );
}

// Group g of rows 4 q .. 4 q + 4 of a row-block, times group n of 4 slots in workgroup memory.
fn products(m: u32, row_block: u32, q: u32, g: u32, n: u32, some: u32, acc: ptr<function, array<vec4<f32>, 4>>) {
    let base = row_block + g / BLOCK_GROUPS * BLOCK;
    let in_block = g % BLOCK_GROUPS;
    var a0 = vec4<i32>();
    var a1 = vec4<i32>();
    var a2 = vec4<i32>();
    var a3 = vec4<i32>();
    var b0 = vec4<i32>();
    var b1 = vec4<i32>();
    var b2 = vec4<i32>();
    var b3 = vec4<i32>();
    for (var j = 0u; j < 4u; j++) {
        let c = codes(m, base, in_block, q, j);
        let x = xs[(8u * n + j) * 8u + some];
        let y = xs[(8u * n + j + 4u) * 8u + some];
        a0 += dot4(c.low, x.x);
        a1 += dot4(c.low, x.y);
        a2 += dot4(c.low, x.z);
        a3 += dot4(c.low, x.w);
        b0 += dot4(c.high, y.x);
        b1 += dot4(c.high, y.y);
        b2 += dot4(c.high, y.z);
        b3 += dot4(c.high, y.w);
    }
    let s = scales(m, base, in_block, q);
    let x_scale = x_scales[8u * n + some];
    let sums = x_sums[8u * n + some];
    (*acc)[0] = advance((*acc)[0], link(s, a0, b0, x_scale.x, unpack_sums(sums.x)));
    (*acc)[1] = advance((*acc)[1], link(s, a1, b1, x_scale.y, unpack_sums(sums.y)));
    (*acc)[2] = advance((*acc)[2], link(s, a2, b2, x_scale.z, unpack_sums(sums.z)));
    (*acc)[3] = advance((*acc)[3], link(s, a3, b3, x_scale.w, unpack_sums(sums.w)));
}

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
    let used = (p.k + 31u) / 32u;
    if me < TILE {
        var row = arena[p.order + min(begin + me, end - 1u)];
        if PAIR {
            row /= p.top;
        }
        rows[me] = p.x + row * p.token;
    }

    var gate = array<vec4<f32>, 4>();
    var up = array<vec4<f32>, 4>();
    for (var base = 0u; base < used; base += GROUPS) {
        workgroupBarrier();
        for (var i = me; i < 256u; i += LANES) {
            // 32 lanes take the 32 words of four groups of a slot.
            xs[i % 32u * 8u + i / 32u] = gather(i / 32u, 8u * base + i % 32u);
        }
        if me < 32u {
            let g = base + me % GROUPS;
            let to = me % GROUPS * 8u + me / GROUPS;
            x_scales[to] = bitcast<vec4<f32>>(gather(me / GROUPS, 8u * p.groups + g));
            x_sums[to] = gather(me / GROUPS, 9u * p.groups + g);
        }
        workgroupBarrier();
        if real {
            for (var n = 0u; n < min(GROUPS, used - base); n++) {
                products(0u, row_block, four % 4u, base + n, n, some, &gate);
                if PAIR {
                    products(1u, row_block, four % 4u, base + n, n, some, &up);
                }
            }
        }
    }

    if PAIR {
        for (var i = 0u; i < 4u; i++) {
            // Rows past the last are zero.
            hidden[(4u * some + i) * 17u + four] = gated(gate[i], up[i]);
        }
        workgroupBarrier();
        let g = 2u * id.x + me / TILE;
        let place = begin + me % TILE;
        if held && me < 2u * TILE && place < end && 32u * g < p.rows {
            var x: array<vec4<f32>, 8>;
            for (var i = 0u; i < 8u; i++) {
                x[i] = hidden[me % TILE * 17u + me / TILE * 8u + i];
            }
            store_group(p.out + arena[p.order + place] * p.token_out, g, x);
        }
    } else {
        for (var i = 0u; i < 4u; i++) {
            let place = begin + 4u * some + i;
            if held && place < end {
                let to = p.out + arena[p.order + place] * p.token_out;
                for (var n = 0u; n < 4u; n++) {
                    let r = 64u * id.x + 4u * four + n;
                    if r < p.rows {
                        store(to + r, gate[i][n]);
                    }
                }
            }
        }
    }
}
