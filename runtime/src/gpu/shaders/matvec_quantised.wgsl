// One row times a quantised matrix; mirrors Kernels::matmul of one token.
// A workgroup takes a row-block: 4 lanes of 4 rows, times 16 lanes along K, which make the links of GROUPS groups; then a
// lane for each row adds them in order.

const GROUPS = 32u;
// [matrix][group][16 rows]
var<workgroup> isums: array<vec4<f32>, 256>;
var<workgroup> factors: array<vec4<f32>, 256>;
// The same; [group]. Of formats with minima.
var<workgroup> minima: array<vec4<f32>, MINIMA_ROOM>;
var<workgroup> x_sums: array<f32, 32>;
// [matrix][16 rows]
var<workgroup> results: array<f32, 32>;

fn make(m: u32, row_block: u32, first: u32, lane: u32) {
    let q = lane % 4u;
    for (var n = lane / 4u; n < GROUPS; n += 16u) {
        let g = first + n;
        if g < p.groups {
            let base = row_block + g / BLOCK_GROUPS * BLOCK;
            let in_block = g % BLOCK_GROUPS;
            let x = p.x + 8u * g;
            var a = vec4<i32>();
            var b = vec4<i32>();
            for (var j = 0u; j < 4u; j++) {
                let c = codes(m, base, in_block, q, j);
                a += dot4(c.low, arena[x + j]);
                b += dot4(c.high, arena[x + 4u + j]);
            }
            let sums = unpack_sums(arena[p.x + 9u * p.k + g]);
            let l = link(scales(m, base, in_block, q), a, b, load(p.x + 8u * p.k + g), sums);
            let to = 128u * m + 4u * n + q;
            isums[to] = l.isum;
            factors[to] = l.scale;
            if MINIMA {
                minima[to] = l.minimum;
                x_sums[n] = l.x_sum;
            }
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row_block = group.x * p.row_block;
    // Lane 16 m + r carries the chain of row r of matrix m.
    let carries = lane < select(16u, 32u, PAIR);
    let at = 128u * (lane / 16u) + lane % 16u / 4u;
    let r = lane % 4u;
    var acc = 0.0;
    for (var first = 0u; first < p.groups; first += GROUPS) {
        make(0u, row_block, first, lane);
        if PAIR {
            make(1u, row_block, first, lane);
        }
        workgroupBarrier();
        if carries {
            for (var n = 0u; n < min(GROUPS, p.groups - first); n++) {
                acc = fused(isums[at + 4u * n][r], factors[at + 4u * n][r], acc);
                if MINIMA {
                    acc = fused(-minima[at + 4u * n][r], x_sums[n], acc);
                }
            }
        }
        workgroupBarrier();
    }
    let row = p.first + 16u * group.x + lane;
    if !PAIR {
        if lane < 16u {
            write(0u, row, acc);
        }
        return;
    }
    if lane < 32u {
        results[lane] = acc;
    }
    workgroupBarrier();
    if lane < 16u {
        write(0u, row, gated(vec4(results[lane]), vec4(results[lane + 16u])).x);
    }
}
