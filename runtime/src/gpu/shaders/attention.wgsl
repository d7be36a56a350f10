// Causal attention over the cache: mirrors `attention` of cpu/kernels/body/attention.rs, with an online softmax over
// tiles of positions.
//
// The query rows of one key head are numbered token by token, row = token * group + head, and taken in quads, one lane
// of a vec4 each, so that a key or value that is loaded serves four rows. A workgroup has QUADS quads:
//
//   scores   an invocation is one position of the tile and one quad: THREADS / QUADS positions
//   values   an invocation is 8 elements, one quad, and every LANES-th position of the tile; the lanes' sums are added
//            in ascending order at the end
//
// Prefill takes several quads for a workgroup, decode one quad and long tiles. In decode several workgroups along z may
// divide the positions, and attention_merge.wgsl puts their parts together.

// Powers of two, with THREADS / QUADS >= 16, QUADS * (dim padded to 8) <= 512 and <= 8 THREADS.
override QUADS: u32 = 8u;
override THREADS: u32 = 256u;

const LOWEST = -3.0e38;

var<workgroup> q4: array<vec4<f32>, 512>;    // [quad][dim] while tiles are read; then sums of lanes
var<workgroup> p4: array<vec4<f32>, 256>;    // [quad][position of the tile]
var<workgroup> some4: array<vec4<f32>, 16>;  // one for 16 of p4
var<workgroup> shrink4: array<vec4<f32>, 8>; // [quad]

struct Eight {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

fn widen(x: vec4<u32>) -> Eight {
    let a = unpack2x16float(x.x);
    let b = unpack2x16float(x.y);
    let c = unpack2x16float(x.z);
    let d = unpack2x16float(x.w);
    return Eight(vec4(a.x, a.y, b.x, b.y), vec4(c.x, c.y, d.x, d.y));
}

fn key(at: u32) -> Eight {
    if HALF {
        return widen(keys[at]);
    }
    return Eight(bitcast<vec4<f32>>(keys[2u * at]), bitcast<vec4<f32>>(keys[2u * at + 1u]));
}

fn value(at: u32) -> Eight {
    if HALF {
        return widen(values[at]);
    }
    return Eight(bitcast<vec4<f32>>(values[2u * at]), bitcast<vec4<f32>>(values[2u * at + 1u]));
}

// Row `row` of key head `head`: where its `dim` floats start within [rows][heads][dim].
fn place(head: u32, row: u32) -> u32 {
    return ((row / p.group * p.kv + head) * p.group + row % p.group) * p.dim;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) me: u32,
) {
    let head = id.x;
    let units = (p.dim + 7u) / 8u;
    let dims = 8u * units;
    let rows = call.rows * p.group;
    let first = id.y * 4u * QUADS;
    let tile = THREADS / QUADS;

    for (var i = me; i < QUADS * dims; i += THREADS) {
        let d = i % dims;
        var x = vec4<f32>();
        for (var n = 0u; n < 4u; n++) {
            let row = first + 4u * (i / dims) + n;
            if row < rows && d < p.dim {
                x[n] = p.scale * load(p.q + place(head, row) + d);
            }
        }
        q4[i] = x;
    }

    // The positions that some row here sees, and of them this workgroup's.
    let newest = call.past + (min(rows, first + 4u * QUADS) - 1u) / p.group + 1u;
    let oldest = call.past + first / p.group + 1u;
    let start = oldest - min(oldest, p.window);
    let splits = shares(newest - start);
    if id.z >= splits {
        return;
    }
    let share = (newest - start + splits * SHARE - 1u) / (splits * SHARE) * SHARE;
    let begin = start + id.z * share;
    let end = min(newest, begin + share);

    let quad = me / tile;
    let mine = me % tile;
    let at4 = vec4(call.past) + (vec4(first + 4u * quad) + vec4(0u, 1u, 2u, 3u)) / vec4(p.group);

    let lanes = THREADS / (QUADS * units);
    let value_quad = me / (units * lanes);
    let lane = me / units % lanes;
    let unit = me % units;
    let working = value_quad < QUADS;

    var top = vec4(LOWEST);
    var total = vec4<f32>();
    var acc = array<vec4<f32>, 8>();
    let base = head * call.context;
    workgroupBarrier();

    for (var next = begin; next < end; next += tile) {
        let position = next + mine;
        var s = vec4(LOWEST);
        var seen = vec4(false);
        if position < end {
            var dot4 = vec4<f32>();
            for (var u = 0u; u < units; u++) {
                let x = key((base + position) * units + u);
                let q = quad * dims + 8u * u;
                dot4 = fma(vec4(x.lo.x), q4[q], dot4);
                dot4 = fma(vec4(x.lo.y), q4[q + 1u], dot4);
                dot4 = fma(vec4(x.lo.z), q4[q + 2u], dot4);
                dot4 = fma(vec4(x.lo.w), q4[q + 3u], dot4);
                dot4 = fma(vec4(x.hi.x), q4[q + 4u], dot4);
                dot4 = fma(vec4(x.hi.y), q4[q + 5u], dot4);
                dot4 = fma(vec4(x.hi.z), q4[q + 6u], dot4);
                dot4 = fma(vec4(x.hi.w), q4[q + 7u], dot4);
            }
            seen = (vec4(position) <= at4) & (at4 - vec4(position) < vec4(p.window));
            s = select(vec4(LOWEST), dot4, seen);
        }
        p4[me] = s;
        workgroupBarrier();
        if me < THREADS / 16u {
            var highest = p4[16u * me];
            for (var i = 1u; i < 16u; i++) {
                highest = max(highest, p4[16u * me + i]);
            }
            some4[me] = highest;
        }
        workgroupBarrier();
        var highest = top;
        for (var i = 0u; i < tile / 16u; i++) {
            highest = max(highest, some4[quad * (tile / 16u) + i]);
        }
        let shrink = exp(top - highest);
        let e = select(vec4<f32>(), exp(s - highest), seen);
        total = fma(total, shrink, e);
        top = highest;
        p4[me] = e;
        if mine == 0u {
            shrink4[quad] = shrink;
        }
        workgroupBarrier();
        if working {
            let c = shrink4[value_quad];
            for (var d = 0u; d < 8u; d++) {
                acc[d] *= c;
            }
            let held = min(tile, end - next);
            for (var j = lane; j < held; j += lanes) {
                let e = p4[value_quad * tile + j];
                let x = value((base + next + j) * units + unit);
                acc[0] = fma(vec4(x.lo.x), e, acc[0]);
                acc[1] = fma(vec4(x.lo.y), e, acc[1]);
                acc[2] = fma(vec4(x.lo.z), e, acc[2]);
                acc[3] = fma(vec4(x.lo.w), e, acc[3]);
                acc[4] = fma(vec4(x.hi.x), e, acc[4]);
                acc[5] = fma(vec4(x.hi.y), e, acc[5]);
                acc[6] = fma(vec4(x.hi.z), e, acc[6]);
                acc[7] = fma(vec4(x.hi.w), e, acc[7]);
            }
        }
        workgroupBarrier();
    }

    // Sums over positions, then over lanes, two elements at a time.
    p4[me] = total;
    workgroupBarrier();
    if me < THREADS / 16u {
        var sum = vec4<f32>();
        for (var i = 0u; i < 16u; i++) {
            sum += p4[16u * me + i];
        }
        some4[me] = sum;
    }
    if mine == 0u {
        shrink4[quad] = top;
    }
    workgroupBarrier();
    for (var d = 0u; d < 8u; d += 2u) {
        if working {
            q4[2u * me] = acc[d];
            q4[2u * me + 1u] = acc[d + 1u];
        }
        workgroupBarrier();
        if working && lane == 0u {
            var a = vec4<f32>();
            var b = vec4<f32>();
            for (var l = 0u; l < lanes; l++) {
                a += q4[2u * (me + l * units)];
                b += q4[2u * (me + l * units) + 1u];
            }
            acc[d] = a;
            acc[d + 1u] = b;
        }
        workgroupBarrier();
    }
    if !working || lane != 0u {
        return;
    }
    var sum = vec4<f32>();
    for (var i = 0u; i < tile / 16u; i++) {
        sum += some4[value_quad * (tile / 16u) + i];
    }
    let highest = shrink4[value_quad];
    let heads = p.kv * p.group;
    for (var n = 0u; n < 4u; n++) {
        let row = first + 4u * value_quad + n;
        if row < rows {
            let to = place(head, row);
            for (var d = 0u; d < 8u; d++) {
                if 8u * unit + d < p.dim {
                    if splits == 1u {
                        store(p.out + to + 8u * unit + d, acc[d][n] / sum[n]);
                    } else {
                        store(p.partial + id.z * heads * p.dim + to + 8u * unit + d, acc[d][n]);
                    }
                }
            }
            if splits > 1u && unit == 0u {
                let stats = p.partial + p.splits * heads * p.dim + 2u * (id.z * heads + to / p.dim);
                store(stats, highest[n]);
                store(stats + 1u, sum[n]);
            }
        }
    }
}
