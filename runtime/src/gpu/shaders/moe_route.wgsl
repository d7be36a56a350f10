// The router: mirrors `Executor::route` of exec/moe.rs and `top_k` of cpu/kernels/topk.rs. One workgroup for a token.
//
//   logits = router . x;  scores = 1 / (1 + e^-logits);  the `top` largest scores + bias are chosen, ties to the lower
//   index, NaN below everything;  weights are the scores, divided by their ascending sum + eps, times a scale
//
// An expert is chosen if fewer than `top` come before it, and its place is how many chosen ones have a lower index: both
// are counted, nothing is sorted.

struct Params {
    x: u32,         // arena: [rows][width]
    width: u32,
    experts: u32,
    top: u32,
    bias: u32,      // small: [experts]
    has_bias: u32,
    renorm: u32,    // whether weights are divided by their sum
    eps: f32,
    scale: f32,
    logits: u32,    // arena: [rows][experts]
    ids: u32,       // arena: [rows][top], u32, ascending in a row
    weights: u32,   // arena: [rows][top]
}

@group(0) @binding(2) var<uniform> p: Params;
@group(1) @binding(0) var<storage, read> w: array<vec4<u32>>;  // router, [experts / 16][width][16] f32 or f16

override HALF: bool = false;
// Whether sums keep the order of the CPU: one lane along K instead of many.
override ORDERED: bool = false;

const EXPERTS = 1024u;
const LANES = 32u;

var<workgroup> sums: array<vec4<f32>, 256>;  // [lane][quad] of 32 experts
var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> ranks: array<u32, EXPERTS>;   // order of score + bias; then whether the expert is chosen
var<workgroup> shares: array<f32, EXPERTS>;  // scores of the chosen, by place

// Unsigned integers in the order of floats; NaN is 0.
fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0u;
    }
    if (bits & 0x7fffffffu) == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}

// Four rows of the router from row 4 quad of a row-block, at k.
fn four(block: u32, k: u32, quad: u32) -> vec4<f32> {
    let at = block * p.width + k;
    if HALF {
        let two = w[2u * at + quad / 2u];
        let pair = select(two.xy, two.zw, quad % 2u == 1u);
        return vec4(unpack2x16float(pair.x), unpack2x16float(pair.y));
    }
    return bitcast<vec4<f32>>(w[4u * at + quad]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) me: u32) {
    let token = id.x;
    let lane = me / 8u;
    let x = p.x + token * p.width;
    let blocks = (p.experts + 15u) / 16u;
    let lanes = select(LANES, 1u, ORDERED);
    for (var first = 0u; first < blocks; first += 2u) {
        // Past the last row-block its rows are computed again and not used.
        let block = min(first + me % 8u / 4u, blocks - 1u);
        var sum = vec4<f32>();
        if lane < lanes {
            for (var k = lane; k < p.width; k += lanes) {
                sum = fused4(four(block, k, me % 4u), vec4(load(x + k)), sum);
            }
        }
        sums[me] = sum;
        workgroupBarrier();
        let expert = 16u * first + me;
        if me < 32u && expert < p.experts {
            var logit = 0.0;
            for (var l = 0u; l < LANES; l++) {
                logit += sums[8u * l + me / 4u][me % 4u];
            }
            store(p.logits + token * p.experts + expert, logit);
            let score = sigmoid(logit);
            scores[expert] = score;
            var bias = 0.0;
            if p.has_bias != 0u {
                bias = small[p.bias + expert];
            }
            ranks[expert] = ordered(score + bias);
        }
        workgroupBarrier();
    }

    // Bit i: whether expert me + 256 i is chosen.
    var mine = 0u;
    for (var e = me; e < p.experts; e += 256u) {
        let rank = ranks[e];
        var before = 0u;
        for (var other = 0u; other < p.experts; other++) {
            before += u32(ranks[other] > rank || (ranks[other] == rank && other < e));
        }
        mine |= u32(before < p.top) << (e / 256u);
    }
    workgroupBarrier();
    for (var e = me; e < p.experts; e += 256u) {
        ranks[e] = (mine >> (e / 256u)) & 1u;
    }
    workgroupBarrier();
    for (var e = me; e < p.experts; e += 256u) {
        if ranks[e] != 0u {
            var place = 0u;
            for (var other = 0u; other < e; other++) {
                place += ranks[other];
            }
            shares[place] = scores[e];
            arena[p.ids + token * p.top + place] = e;
        }
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < p.top; i++) {
        sum += shares[i];
    }
    for (var i = me; i < p.top; i += 256u) {
        var share = shares[i];
        if p.renorm != 0u {
            share = divide(share, sum + p.eps);
        }
        store(p.weights + token * p.top + i, share * p.scale);
    }
}
