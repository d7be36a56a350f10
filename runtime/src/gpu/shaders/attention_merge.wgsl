// Puts together what workgroups leave that have divided the positions of one row. With their maxima m, sums l and
// weighted sums a: out = sum(a e^(m - max m)) / sum(l e^(m - max m)), shares ascending.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let heads = p.kv * p.group;
    let width = heads * p.dim;
    let splits = shares(min(call.past + 1u, p.window));
    if id.x >= width || splits == 1u {
        return;
    }
    let stats = p.partial + p.splits * width + 2u * (id.x / p.dim);
    var top = load(stats);
    for (var s = 1u; s < splits; s++) {
        top = max(top, load(stats + 2u * s * heads));
    }
    var sum = 0.0;
    var total = 0.0;
    for (var s = 0u; s < splits; s++) {
        let c = exp(load(stats + 2u * s * heads) - top);
        sum = fma(load(p.partial + s * width + id.x), c, sum);
        total = fma(load(stats + 2u * s * heads + 1u), c, total);
    }
    store(p.out + id.x, sum / total);
}
