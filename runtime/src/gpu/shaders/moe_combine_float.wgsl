// Down of one token's experts, f32 or f16, and their sum: mirrors `Executor::experts_out` of exec/moe.rs for one row.
// As moe_combine.wgsl, with rows of floats.

override RESIDUAL: bool = false;

const LANES = 64u;

var<workgroup> sums: array<vec4<f32>, 256>;  // [lane][4 rows]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let lanes = select(LANES, 1u, ORDERED);
    var sum = vec4<f32>();
    if p.first > 0u && me < 4u {
        for (var n = 0u; n < 4u; n++) {
            let r = 16u * id.x + 4u * me + n;
            if r < p.rows {
                sum[n] = load(p.out + r);
            }
        }
    }
    for (var place = 0u; place < p.top; place++) {
        let expert = arena[p.ids + place];
        if holds(expert) && me / 4u < lanes {
            let row_block = (expert - p.first) * p.stride + id.x * p.row_block;
            var y = vec4<f32>();
            for (var k = me / 4u; k < p.k; k += lanes) {
                y = fused4(weight(0u, row_block, k, me % 4u), vec4(load(p.x + place * p.token + k)), y);
            }
            sum = fused4(vec4(load(p.weights + place)), y, sum);
        }
    }
    sums[me] = sum;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if me < 4u * half {
            sums[me] += sums[me + 4u * half];
        }
    }
    workgroupBarrier();
    let r = 16u * id.x + me;
    if me < 16u && r < p.rows {
        var y = sums[me / 4u][me % 4u];
        if RESIDUAL {
            y += load(p.residual + r);
        }
        store(p.out + r, y);
    }
}
