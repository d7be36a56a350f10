// Gate and up of one token's experts, quantised: mirrors `Executor::experts_in` and `quantize_hidden` of exec/moe.rs for
// one row.
//
//   out[place] = int8 form of silu(gate . x) * (up . x)
//
// Workgroup (n, place): group n of 32 rows of the token's expert `place`; 8 times 4 rows of both matrices, 16 lanes along
// K, which make the links of as many groups; then a lane for each row and matrix adds them in order.

const GROUPS = 16u;

var<workgroup> isums: array<vec4<f32>, 256>;    // [matrix][group][8 times 4 rows]
var<workgroup> factors: array<vec4<f32>, 256>;
var<workgroup> minima: array<vec4<f32>, MINIMA_ROOM>;
var<workgroup> x_sums: array<f32, GROUPS>;
var<workgroup> results: array<vec4<f32>, 16>;   // [matrix][8 times 4 rows]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let expert = arena[p.ids + id.y];
    let held = holds(expert);
    let m = me / 128u;
    let n = me / 8u % GROUPS;
    let block = 2u * id.x + me % 8u / 4u;
    let row_block = (expert - p.first) * p.stride + block * p.row_block;
    let real = held && 16u * block < p.rows;
    let used = (p.k + 31u) / 32u;
    // Lane 32 m + r carries the chain of row r of matrix m.
    let at = 128u * (me / 32u) + me % 32u / 4u;
    var acc = 0.0;
    for (var first = 0u; first < used; first += GROUPS) {
        if first + n < used {
            // Rows past the last are zero.
            var l = Link();
            if real {
                l = product(m, row_block, me % 4u, first + n, load_group(p.x, first + n));
            }
            isums[me] = l.isum;
            factors[me] = l.scale;
            if MINIMA {
                minima[me] = l.minimum;
                // The first row-block of a group of 32 is always there.
                if me % 8u == 0u && m == 0u {
                    x_sums[n] = l.x_sum;
                }
            }
        }
        workgroupBarrier();
        if me < 64u {
            for (var i = 0u; i < min(GROUPS, used - first); i++) {
                acc = fused(isums[at + 8u * i][me % 4u], factors[at + 8u * i][me % 4u], acc);
                if MINIMA {
                    acc = fused(-minima[at + 8u * i][me % 4u], x_sums[i], acc);
                }
            }
        }
        workgroupBarrier();
    }
    if me < 64u {
        results[me / 4u][me % 4u] = acc;
    }
    workgroupBarrier();
    if me == 0u && held {
        var hidden: array<vec4<f32>, 8>;
        for (var i = 0u; i < 8u; i++) {
            hidden[i] = gated(results[i], results[8u + i]);
        }
        store_group(p.out + id.y * p.token_out, id.x, hidden);
    }
}
