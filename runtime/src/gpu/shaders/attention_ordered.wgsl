// Causal attention over the cache, every sum in the order of `attention` of cpu/kernels/body/attention.rs: tiles of 64
// positions that begin at multiples of 64, ascending.
//
// The query rows of one key head are numbered token by token, row = token * group + head. A workgroup takes four of them,
// one lane of a vec4 each; an invocation is one position of the tile for scores, and every 64th element for values.

const TILE = 64u;

var<workgroup> q4: array<vec4<f32>, 256>;  // [dim]
var<workgroup> p4: array<vec4<f32>, 64>;   // [position of the tile] scores, then e^(score - maximum)
var<workgroup> some4: array<vec4<f32>, 16>;

// Element d of the key, or value, at row `at` of a cache.
fn element(x: vec4<u32>, d: u32) -> f32 {
    let both = unpack2x16float(x[d / 2u % 4u]);
    return select(both.x, both.y, d % 2u == 1u);
}

fn key(at: u32, d: u32) -> f32 {
    if HALF {
        return element(keys[at * ((p.dim + 7u) / 8u) + d / 8u], d);
    }
    return bitcast<f32>(keys[at * 2u * ((p.dim + 7u) / 8u) + d / 4u][d % 4u]);
}

fn value(at: u32, d: u32) -> f32 {
    if HALF {
        return element(values[at * ((p.dim + 7u) / 8u) + d / 8u], d);
    }
    return bitcast<f32>(values[at * 2u * ((p.dim + 7u) / 8u) + d / 4u][d % 4u]);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let head = id.x;
    let rows = call.rows * p.group;
    let first = 4u * id.y;
    for (var d = me; d < p.dim; d += TILE) {
        var x = vec4<f32>();
        for (var n = 0u; n < 4u; n++) {
            let row = first + n;
            if row < rows {
                x[n] = load(p.q + ((row / p.group * p.kv + head) * p.group + row % p.group) * p.dim + d);
            }
        }
        q4[d] = x;
    }
    let at4 = vec4(call.past) + (vec4(first) + vec4(0u, 1u, 2u, 3u)) / vec4(p.group);
    // The positions that some row sees.
    let end = call.past + (min(rows, first + 4u) - 1u) / p.group + 1u;
    let oldest = call.past + first / p.group + 1u;
    let start = oldest - min(oldest, p.window);
    let base = head * call.context;
    var top = vec4(-0x1p127f);
    var any = vec4(false);
    var total = vec4<f32>();
    var acc = array<vec4<f32>, 4>();
    workgroupBarrier();

    for (var next = start / TILE * TILE; next < end; next += TILE) {
        let position = next + me;
        var s = vec4<f32>();
        var seen = vec4(false);
        if position >= start && position < end {
            var dot = vec4<f32>();
            for (var d = 0u; d < p.dim; d++) {
                dot = fused4(q4[d], vec4(key(base + position, d)), dot);
            }
            s = dot * p.scale;
            seen = (vec4(position) <= at4) & (at4 - vec4(position) < vec4(p.window));
        }
        p4[me] = select(vec4(-0x1p127f), s, seen);
        workgroupBarrier();
        if me < 16u {
            some4[me] = max(max(p4[me], p4[me + 16u]), max(p4[me + 32u], p4[me + 48u]));
        }
        workgroupBarrier();
        var highest = top;
        for (var i = 0u; i < 16u; i++) {
            highest = max(highest, some4[i]);
        }
        workgroupBarrier();
        // Before the first position that a row sees, its sums are zero, whatever they shrink by.
        let shrink = select(vec4(0.0), exp4(top - highest), any);
        any = highest > vec4(-0x1p127f);
        top = highest;
        p4[me] = select(vec4(0.0), exp4(s - highest), seen);
        workgroupBarrier();
        // Position j in lane j % 16, then the tree.
        if me < 16u {
            some4[me] = p4[me] + p4[me + 16u] + p4[me + 32u] + p4[me + 48u];
        }
        for (var half = 8u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if me < half {
                some4[me] += some4[me + half];
            }
        }
        workgroupBarrier();
        total = fused4(total, shrink, some4[0]);
        for (var i = 0u; i < 4u; i++) {
            let d = TILE * i + me;
            if d < p.dim {
                var a = vec4<f32>();
                for (var j = max(start, next) - next; j < min(TILE, end - next); j++) {
                    a = fused4(p4[j], vec4(value(base + next + j, d)), a);
                }
                acc[i] = fused4(acc[i], shrink, a);
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < 4u; i++) {
        let d = TILE * i + me;
        let y = divide4(acc[i], total);
        for (var n = 0u; n < 4u; n++) {
            let row = first + n;
            if d < p.dim && row < rows {
                store(p.out + ((row / p.group * p.kv + head) * p.group + row % p.group) * p.dim + d, y[n]);
            }
        }
    }
}
