// Arithmetic in f64, for software devices that have it but do not fuse fma: sums, products and quotients of f32 are exact
// or rounded so late that the bits are those of the CPU.

// a * b + c, rounded once.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    return f32(f64(a) * f64(b) + f64(c));
}

fn fused4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(vec4<f64>(a) * vec4<f64>(b) + vec4<f64>(c));
}

// a / b, rounded to nearest.
fn divide(a: f32, b: f32) -> f32 {
    return f32(f64(a) / f64(b));
}

fn divide4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(vec4<f64>(a) / vec4<f64>(b));
}

// The square root.
fn root(x: f32) -> f32 {
    return f32(sqrt(f64(x)));
}

// a * b, rounded to an integer, ties to even.
fn nearest4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(round(vec4<f64>(a) * vec4<f64>(b)));
}

