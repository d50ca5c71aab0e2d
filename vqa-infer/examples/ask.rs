//! Asks a trained model about a picture.
//!
//!     cargo run --release -p vqa-infer --example ask -- runs/rooms kitchen.jpg "what is on the table?"

use vqa_infer::Answerer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, picture, question] = &arguments[..] else {
        eprintln!("usage: ask CHECKPOINT PICTURE QUESTION");
        std::process::exit(2);
    };
    let answerer = Answerer::open(checkpoint.as_ref(), None, None)?;
    let picture = vqa_data::features::read_image(picture.as_ref())?;
    for (answer, score) in answerer.ask(&picture, question, 5)?.answers {
        println!("{score:.3} {answer}");
    }
    Ok(())
}
