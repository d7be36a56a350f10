// Gated short convolution with its window: mirrors `conv_gate` of cpu/kernels/body/conv.rs. An invocation is one channel
// of up to TOKENS tokens.
//
//   z = B * x;  s = 0;  for j in 0..taps: s = fma(w[j], z[t - (taps - 1) + j], s);  s += bias;  out[t] = C * s
//
// z of the newest taps - 1 tokens stays in the window. A call of more than TOKENS tokens takes several workgroups along
// y that all read the window, and then a dispatch with REMEMBER moves it on; a shorter one does both at once.

struct Params {
    bcx: u32,       // arena: [rows][3][hidden], B, C and x
    out: u32,       // arena: [rows][hidden]
    hidden: u32,
    taps: u32,
    kernel: u32,    // small: [hidden / 16][taps][16]
    bias: u32,      // small: [hidden]
    has_bias: u32,
}

@group(0) @binding(2) var<uniform> p: Params;
@group(2) @binding(0) var<storage, read_write> window: array<f32>;  // [taps - 1][hidden], oldest first

override REMEMBER: bool = false;

const TOKENS = 8u;

// z of token n - (taps - 1).
fn z(n: u32, channel: u32) -> f32 {
    let past = p.taps - 1u;
    if n < past {
        return window[n * p.hidden + channel];
    }
    let at = p.bcx + 3u * (n - past) * p.hidden + channel;
    return load(at) * load(at + 2u * p.hidden);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    if channel >= p.hidden {
        return;
    }
    if !REMEMBER {
        let kernel = p.kernel + channel / 16u * p.taps * 16u + channel % 16u;
        for (var t = id.y * TOKENS; t < min(call.rows, (id.y + 1u) * TOKENS); t++) {
            var sum = 0.0;
            for (var j = 0u; j < p.taps; j++) {
                sum = fused(small[kernel + 16u * j], z(t + j, channel), sum);
            }
            if p.has_bias != 0u {
                sum += small[p.bias + channel];
            }
            store(p.out + t * p.hidden + channel, load(p.bcx + (3u * t + 1u) * p.hidden + channel) * sum);
        }
    }
    if REMEMBER == (call.rows > TOKENS) {
        // Ascending, so that a kept value is read before its place is taken.
        for (var row = 0u; row + 1u < p.taps; row++) {
            window[row * p.hidden + channel] = z(call.rows + row, channel);
        }
    }
}
