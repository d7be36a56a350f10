// What the products of slots with their experts share: parameters.

struct Params {
    // elements of a row of a matrix, and its rows
    k: u32,
    rows: u32,
    // experts of a token
    top: u32,
    // arena: [rows][top] u32 and f32
    ids: u32,
    weights: u32,
    // arena: [slots] u32, sorted by expert; [experts + 1] u32, where each expert's begin
    order: u32,
    starts: u32,
    // arena: [tiles][2] u32, expert and first place in `order`
    tiles: u32,
    // arena: rows of x, panels or [k] f32: those of tokens for gate and up, those of slots for down
    x: u32,
    // words from one row of x to the next
    token: u32,
    // groups of a row in the panels
    groups: u32,
    // arena: what is written
    out: u32,
    // words from one row of it to the next, and groups of a row if they are panels
    token_out: u32,
    groups_out: u32,
    // arena: [rows of the call][rows] f32
    residual: u32,
    // experts that the bindings hold: those from `first` on, up to `end`
    first: u32,
    end: u32,
    // vec4 from expert to expert, and of a row-block
    stride: u32,
    row_block: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

// Whether sums of floats keep the order of the CPU: one lane along K instead of many.
override ORDERED: bool = false;

// Whether the bindings hold an expert. Its workgroups run to their end in any case: barriers must not depend on what was
// loaded.
fn holds(expert: u32) -> bool {
    return p.first <= expert && expert < p.end;
}
