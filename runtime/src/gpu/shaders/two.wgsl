// Two packed matrices, or stacks, of one shape: [row-block][block], a vec4 being one dword of each of four rows.
@group(1) @binding(0) var<storage, read> w0: array<vec4<u32>>;
@group(1) @binding(1) var<storage, read> w1: array<vec4<u32>>;

// Word `at` of matrix m.
fn word(m: u32, at: u32) -> vec4<u32> {
    if m == 0u {
        return w0[at];
    }
    return w1[at];
}

