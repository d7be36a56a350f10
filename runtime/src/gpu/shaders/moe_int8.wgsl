// Groups of 32 int8 activations: their products with four rows of a quantised matrix, and how they are made.

// Group g of the row of panels at `row`.
struct Group {
    low: vec4<u32>,
    high: vec4<u32>,
    scale: f32,
    sums: vec2<i32>,
}

fn load_group(row: u32, g: u32) -> Group {
    let at = row + 8u * g;
    return Group(
        vec4(arena[at], arena[at + 1u], arena[at + 2u], arena[at + 3u]),
        vec4(arena[at + 4u], arena[at + 5u], arena[at + 6u], arena[at + 7u]),
        load(row + 8u * p.groups + g),
        unpack_sums(arena[row + 9u * p.groups + g]),
    );
}

// Group g of rows 4 q .. 4 q + 4 of a row-block of matrix m, times x.
fn product(m: u32, row_block: u32, q: u32, g: u32, x: Group) -> Link {
    let base = row_block + g / BLOCK_GROUPS * BLOCK;
    let n = g % BLOCK_GROUPS;
    var first = vec4<i32>();
    var second = vec4<i32>();
    for (var j = 0u; j < 4u; j++) {
        let c = codes(m, base, n, q, j);
        first += dot4(c.low, x.low[j]);
        second += dot4(c.high, x.high[j]);
    }
    return link(scales(m, base, n, q), first, second, x.scale, x.sums);
}

// Writes 32 floats as group g of the row of panels at `row`.
fn store_group(row: u32, g: u32, x: array<vec4<f32>, 8>) {
    var most = vec4<f32>();
    for (var i = 0u; i < 8u; i++) {
        most = max(most, abs(x[i]));
    }
    var largest = max(max(most.x, most.y), max(most.z, most.w));
    if !(largest >= 1e-30) {
        largest = 0.0;
    }
    var inverse = 0.0;
    if largest > 0.0 {
        inverse = divide(127.0, largest);
    }
    var sums = vec2<i32>();
    for (var i = 0u; i < 8u; i++) {
        let code = vec4<i32>(round(x[i] * inverse));
        arena[row + 8u * g + i] = pack4xI8(code);
        sums[i / 4u] += code.x + code.y + code.z + code.w;
    }
    store(row + 8u * p.groups_out + g, divide(largest, 127.0));
    arena[row + 9u * p.groups_out + g] = (u32(sums.x) & 0xffffu) | (u32(sums.y) << 16u);
}
