// Down of one token's experts, quantised, and their sum: mirrors `Executor::experts_out` of exec/moe.rs for one row.
//
//   out = 0;  for places ascending: out = fma(weights[place], down . x[place], out);  + residual, if there is one
//
// A workgroup is 16 rows: 4 times 4 rows, 64 lanes along the places and K, which make as many links; then a lane for each
// row adds them in order. A stack in several buffers takes as many dispatches, each of which carries on the sum in `out`.

override RESIDUAL: bool = false;

const LINKS = 64u;

var<workgroup> isums: array<vec4<f32>, 256>;  // [link][4 times 4 rows]
var<workgroup> factors: array<vec4<f32>, 256>;
var<workgroup> minima: array<vec4<f32>, MINIMA_ROOM>;
var<workgroup> x_sums: array<f32, LINKS>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let used = (p.k + 31u) / 32u;
    let links = p.top * used;
    let r = 16u * id.x + me;
    var out = 0.0;
    if p.first > 0u && me < 16u && r < p.rows {
        out = load(p.out + r);
    }
    var y = 0.0;
    for (var first = 0u; first < links; first += LINKS) {
        let i = first + me / 4u;
        if i < links {
            let place = i / used;
            let g = i % used;
            let expert = arena[p.ids + place];
            if holds(expert) {
                let row_block = (expert - p.first) * p.stride + id.x * p.row_block;
                let l = product(0u, row_block, me % 4u, g, load_group(p.x + place * p.token, g));
                isums[me] = l.isum;
                factors[me] = l.scale;
                if MINIMA {
                    minima[me] = l.minimum;
                    x_sums[me / 4u] = l.x_sum;
                }
            }
        }
        workgroupBarrier();
        if me < 16u {
            for (var n = 0u; n < min(LINKS, links - first); n++) {
                let place = (first + n) / used;
                if holds(arena[p.ids + place]) {
                    let at = 4u * n + me / 4u;
                    y = fused(isums[at][me % 4u], factors[at][me % 4u], y);
                    if MINIMA {
                        y = fused(-minima[at][me % 4u], x_sums[n], y);
                    }
                    if (first + n) % used == used - 1u {
                        out = fused(load(p.weights + place), y, out);
                        y = 0.0;
                    }
                }
            }
        }
        workgroupBarrier();
    }
    if me < 16u && r < p.rows {
        if RESIDUAL {
            out += load(p.residual + r);
        }
        store(p.out + r, out);
    }
}
