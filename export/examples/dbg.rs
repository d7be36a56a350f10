fn main() {
    let path = std::env::args().nth(1).unwrap();
    let config = lfm_model::Config::from_file(std::path::Path::new(&path)).unwrap();
    let captured = lfm_export::capture::capture(&lfm_export::capture::lfm2::Lfm2Trace(&config)).unwrap();
    let lowered = lfm_export::lower::lower(&captured).unwrap();
    println!("{}", lowered.text());
}
