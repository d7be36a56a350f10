// Rows to int8 in groups of 32; mirrors Kernels::quantize, in the layout of gpu/mod.rs.
// A workgroup takes 8 groups of a row, 8 lanes a group, 4 elements a lane.

struct Params {
    // arena: [rows][k] f32
    x: u32,
    // arena: panels
    out: u32,
    k: u32,
    // groups of a row, a multiple of 8
    groups: u32,
    // words of a token in the panels
    token: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> most: array<f32, 64>;
var<workgroup> sums: array<i32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    let first = 256u * group.x + 4u * lane;
    var x = vec4(0.0, 0.0, 0.0, 0.0);
    for (var i = 0u; i < 4u; i++) {
        if first + i < p.k {
            x[i] = load(p.x + row * p.k + first + i);
        }
    }
    let magnitude = abs(x);
    most[lane] = max(max(magnitude.x, magnitude.y), max(magnitude.z, magnitude.w));
    for (var half = 4u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane & 7u) < half {
            most[lane] = max(most[lane], most[lane + half]);
        }
    }
    workgroupBarrier();
    var largest = most[lane & 56u];
    if !(largest >= 1e-30) {
        largest = 0.0;
    }
    var inverse = 0.0;
    if largest > 0.0 {
        inverse = divide(127.0, largest);
    }
    let code = vec4<i32>(round(x * inverse));
    let g = 8u * group.x + lane / 8u;
    let token = p.out + row * p.token;
    arena[token + 8u * g + (lane & 7u)] = pack4xI8(code);
    sums[lane] = code.x + code.y + code.z + code.w;
    workgroupBarrier();
    if (lane & 7u) == 0u {
        store(token + 8u * p.groups + g, divide(largest, 127.0));
        let low = sums[lane] + sums[lane + 1u] + sums[lane + 2u] + sums[lane + 3u];
        let high = sums[lane + 4u] + sums[lane + 5u] + sums[lane + 6u] + sums[lane + 7u];
        arena[token + 9u * p.groups + g] = (u32(low) & 0xffffu) | (u32(high) << 16u);
    }
}
