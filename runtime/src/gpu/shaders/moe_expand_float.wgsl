// Gate and up of one token's experts, f32 or f16: mirrors `Executor::experts_in` of exec/moe.rs for one row.
//
//   out[place] = silu(gate . x) * (up . x)
//
// Workgroup (n, place): row-block n of the token's expert `place`; 4 times 4 rows, 64 lanes along K.

const LANES = 64u;

var<workgroup> gates: array<vec4<f32>, 256>;  // [lane][4 rows]
var<workgroup> ups: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let expert = arena[p.ids + id.y];
    let held = holds(expert);
    let row_block = (expert - p.first) * p.stride + id.x * p.row_block;
    var gate = vec4<f32>();
    var up = vec4<f32>();
    let lanes = select(LANES, 1u, ORDERED);
    if held && me / 4u < lanes {
        for (var k = me / 4u; k < p.k; k += lanes) {
            let x = vec4(load(p.x + k));
            gate = fused4(weight(0u, row_block, k, me % 4u), x, gate);
            up = fused4(weight(1u, row_block, k, me % 4u), x, up);
        }
    }
    gates[me] = gate;
    ups[me] = up;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if me < 4u * half {
            gates[me] += gates[me + 4u * half];
            ups[me] += ups[me + 4u * half];
        }
    }
    if held && me < 4u {
        let h = gated(gates[me], ups[me]);
        for (var n = 0u; n < 4u; n++) {
            let r = 16u * id.x + 4u * me + n;
            if r < p.rows {
                store(p.out + id.y * p.token_out + r, h[n]);
            }
        }
    }
}
