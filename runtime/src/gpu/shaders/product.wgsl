// What the products of rows with packed matrices share: parameters, and what happens to a sum.

struct Params {
    // arena: panels [rows][token], or [rows][token] f32
    x: u32,
    // words from one row of x to the next
    token: u32,
    // groups of a row in the panels; of f32 rows, elements
    k: u32,
    // groups that the weights have, even
    groups: u32,
    // vec4 of a row-block
    row_block: u32,
    // row-blocks of this piece of the matrix
    row_blocks: u32,
    // first row of the piece, and the row after its last
    first: u32,
    end: u32,
    // arena: [rows][width] f32
    out: u32,
    width: u32,
    // small: [width]
    bias: u32,
    // arena: [rows][width] f32
    residual: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

// Matrices that are multiplied: two of them make silu(first) * second.
override PAIR: bool = false;
override BIAS: bool = false;
override RESIDUAL: bool = false;

// Writes the product of row `at` for row `token` of x.
fn write(token: u32, at: u32, product: f32) {
    if at < p.end {
        var y = product;
        if BIAS {
            y += small[p.bias + at];
        }
        if RESIDUAL {
            y += load(p.residual + token * p.width + at);
        }
        store(p.out + token * p.width + at, y);
    }
}

// Writes the sums of rows row .. row + 4 of the matrices, for row `token` of x.
fn finish(token: u32, row: u32, sums: vec4<f32>, others: vec4<f32>) {
    var y = sums;
    if PAIR {
        y = gated(sums, others);
    }
    for (var i = 0u; i < 4u; i++) {
        write(token, row + i, y[i]);
    }
}

