// The chosen rows, from call.first on; mirrors Executor::choose_rows.

struct Params {
    // arena: [rows of the chunk][width]
    x: u32,
    // arena: [rows][width]
    out: u32,
    width: u32,
}

@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.width {
        arena[p.out + id.y * p.width + id.x] = arena[p.x + (call.first + id.y) * p.width + id.x];
    }
}
