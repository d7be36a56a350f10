// New keys and values into the cache: mirrors `Caches::write` of exec/attention.rs.
//
// One invocation writes 8 elements of a key and of a value: one vec4 of f16 pairs, or two of f32. Rows of the cache are
// padded to 8 elements.

// f32 to f16 bits, ties to even: what `pack2x16float` rounds to is the device's choice.
fn narrow(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        let odd = (magnitude >> 13u) & 1u;
        return sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13u);
    }
    // Below 2^-14 the spacing is 2^-24; adding 0.5 leaves the rounded multiple in the low bits.
    let half = bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u;
    return sign | half;
}

fn pair(lo: f32, hi: f32) -> u32 {
    return narrow(lo) | (narrow(hi) << 16u);
}

// Elements d..d + 4 of a head that starts at `at`; past its end 0.
fn four(at: u32, d: u32) -> vec4<f32> {
    var x = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if d + i < p.dim {
            x[i] = load(at + d + i);
        }
    }
    return x;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let units = (p.dim + 7u) / 8u;
    let head = id.x / units;
    let unit = id.x % units;
    let row = id.y;
    if head >= p.kv {
        return;
    }
    let source = (row * p.kv + head) * p.dim;
    let to = (head * call.context + call.past + row) * units + unit;
    let k0 = four(p.k + source, 8u * unit);
    let k1 = four(p.k + source, 8u * unit + 4u);
    let v0 = four(p.v + source, 8u * unit);
    let v1 = four(p.v + source, 8u * unit + 4u);
    if HALF {
        keys[to] = vec4(pair(k0.x, k0.y), pair(k0.z, k0.w), pair(k1.x, k1.y), pair(k1.z, k1.w));
        values[to] = vec4(pair(v0.x, v0.y), pair(v0.z, v0.w), pair(v1.x, v1.y), pair(v1.z, v1.w));
    } else {
        keys[2u * to] = bitcast<vec4<u32>>(k0);
        keys[2u * to + 1u] = bitcast<vec4<u32>>(k1);
        values[2u * to] = bitcast<vec4<u32>>(v0);
        values[2u * to + 1u] = bitcast<vec4<u32>>(v1);
    }
}
