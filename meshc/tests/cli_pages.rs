//! Pages in a browser: light, dark, and in a window of 400 pixels.

use crate::support::{
    Workplace, cpu_plugin,
    job::{self, bigram},
    model, say, say_skipped,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Names of browsers that draw a page without a screen and save a picture of it.
const BROWSERS: [&str; 5] =
    ["chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// Returns the browser that `MESH_BROWSER` names, or the first that `PATH` has.
fn browser() -> Option<PathBuf> {
    if let Some(named) = env::var_os("MESH_BROWSER").map(PathBuf::from) {
        assert!(named.is_file(), "MESH_BROWSER: there is no {}", named.display());
        return Some(named);
    }
    let path = env::var_os("PATH")?;
    let all = BROWSERS.iter().flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name)));
    all.into_iter().find(|path| path.is_file())
}

/// A picture: red, green and blue of its pixels, row by row.
struct Picture {
    width: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    fn read(path: &Path) -> Self {
        let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!(info.bit_depth, png::BitDepth::Eight);
        let samples = info.color_type.samples();
        assert!(samples >= 3, "{:?}", info.color_type);
        let pixels = bytes[..info.buffer_size()].chunks_exact(samples).map(|p| [p[0], p[1], p[2]]).collect();
        Self { width: info.width as usize, pixels }
    }

    /// The brightness of the corner, from 0 to 255: that of the background.
    fn background(&self) -> u32 {
        self.pixels[0].iter().map(|part| u32::from(*part)).sum::<u32>() / 3
    }

    /// The share of pixels that differ from the background.
    fn drawn(&self) -> f64 {
        let other = self.pixels.iter().filter(|pixel| **pixel != self.pixels[0]).count();
        other as f64 / self.pixels.len() as f64
    }
}

/// Draws a page in a window of this width, and reads the picture.
fn draw(browser: &Path, profile: &Path, page: &Path, to: &Path, (width, dark): (usize, bool)) -> Picture {
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    // 0 is dark, 1 is light.
    command.arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)));
    command.arg(format!("--window-size={width},1600")).arg(format!("--screenshot={}", to.display()));
    command.arg(format!("file://{}", page.display())).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{} did not draw {} within 60 s", browser.display(), page.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Picture::read(to)
}

#[test]
fn pages_are_drawn_light_dark_and_narrow() {
    let Some(browser) = browser() else {
        return say_skipped("no browser: set MESH_BROWSER to a Chromium, such as chrome-headless-shell");
    };
    let place = Workplace::new();
    let report = place.at("report.html").display().to_string();
    place.run(&["report", &model("matmul.rs"), "--mesh", "data=2,model=2", "--html", &report]).succeeds();
    let trained = job::train(&place, &bigram(), &["--steps", "4", "--run-dir", "run"])
        .env("MESH_PJRT_PLUGIN", cpu_plugin())
        .output();
    assert!(trained.unwrap().status.success());
    place.run(&["runs", "run"]).succeeds();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&folder).unwrap();
    for (name, page) in [("report", place.at("report.html")), ("run", place.at("run/index.html"))] {
        for (look, width, dark) in [("light", 1200, false), ("dark", 1200, true), ("narrow", 400, false)] {
            let to = folder.join(format!("{name}-{look}.png"));
            let picture = draw(&browser, &place.at("profile"), &page, &to, (width, dark));
            assert_eq!(picture.width, width, "{}", to.display());
            let brightness = picture.background();
            assert!(if dark { brightness < 80 } else { brightness > 200 }, "{}: {brightness}", to.display());
            assert!(picture.drawn() > 0.01, "{}: {:.4} is drawn", to.display(), picture.drawn());
        }
    }
    say(&format!("pictures of the pages are in {}", folder.display()));
}
