//! `cargo xtask wasm`: the JavaScript package, with its WebAssembly module, and its tests.

mod browser;
mod imports;
mod size;
mod toolchain;
mod wasi;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, patience};

use toolchain::Toolchain;

const HELP: &str = "\
Builds the JavaScript package into target/npm/polyquic, and says how large it is.

usage: cargo xtask wasm [options] [-- ARGUMENTS OF node --test]

  --test       also runs its tests: in Node, against itself and against the native program, and in
               Chromium, through the relay; and a client on WASI
  --demo       serves docs/browser, a page that speaks QUIC, with servers for it to talk to
  --no-install takes what is there, and installs nothing
";

/// The name of cargo's profile, and of its directory.
const PROFILE: &str = "wasm";

/// Where the demonstration is served.
const DEMO_ADDRESS: &str = "127.0.0.1:8080";

/// How long npm may take. What it has downloaded by then, it keeps for the next try.
const NPM_LIMIT: Duration = Duration::from_secs(600);

/// How long the tests of one file may take, for Node limits whole files, too; and all of them. Ten times
/// what they take on a machine that has nothing else to do.
const FILE_LIMIT: Duration = Duration::from_secs(600);
const TESTS_LIMIT: Duration = Duration::from_secs(2400);

struct Options {
    test: bool,
    demo: bool,
    install: bool,
    rest: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            test: false,
            demo: false,
            install: true,
            rest: Vec::new(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--test" => options.test = true,
                "--demo" => options.demo = true,
                "--no-install" => options.install = false,
                "--" => options.rest = arguments.by_ref().cloned().collect(),
                other => bail!("no option {other:?}\n\n{HELP}"),
            }
        }
        Ok(options)
    }
}

/// Builds the package, and tests it if asked to.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|it| it == "--help" || it == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let started = Instant::now();
    let root = command::root()?;
    let target = root.join("target");
    let toolchain = toolchain::find(options.install)?;
    println!("compiling for {} with {toolchain}", toolchain::TARGET);
    let bindgen = bindgen(&root, &target)?;
    let package = package(&root, &target, toolchain, &bindgen)?;
    println!(
        "{} is complete after {}",
        package.strip_prefix(&root).unwrap_or(&package).display(),
        command::seconds(started.elapsed())
    );
    report(&root, &package, toolchain, options.test)?;
    if options.test || options.demo {
        let site = browser::site(&root, &package)?;
        let program = program(&root)?;
        if options.test {
            let tested = Tested {
                suite: conformance(&target, toolchain, &bindgen)?,
                package,
                site: site.clone(),
                program: program.clone(),
            };
            test(&root, &tested, &options)?;
            wasi::test(&root, &target, &program, options.install)?;
        }
        if options.demo {
            browser::demo(&root, &program, &site, DEMO_ADDRESS)?;
        }
    }
    Ok(())
}

/// Builds the package, and says where it is.
fn package(root: &Path, target: &Path, toolchain: Toolchain, bindgen: &Path) -> Result<PathBuf> {
    let modules = compile(target, toolchain, &["--package", "polyquic-js"])?;
    assemble(root, target, &modules.join("polyquic_js.wasm"), bindgen)
}

/// What a measurement in JavaScript takes: the package, and a program that drives it in Node and in a
/// browser, with `environment` in addition. Says where that program is.
pub(crate) fn peer(root: &Path, environment: &[(&str, &Path)]) -> Result<PathBuf> {
    let target = root.join("target");
    let bindgen = bindgen(root, &target)?;
    let package = package(root, &target, toolchain::find(true)?, &bindgen)?;
    let directory = target.join("npm/bench");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    // Next to each other, as the page is served them.
    copy(&root.join("benches/js"), &directory)?;
    copy(&package, &directory.join("polyquic"))?;
    let mut node = Command::new("node");
    browser::prepare(root, &mut node, true)?;
    let variables = node.get_envs().filter_map(|(name, value)| {
        let value = value?.to_str().context("a path that is not UTF-8");
        Some(value.map(|value| (name.to_string_lossy().into_owned(), value.to_owned())))
    });
    let mut variables = variables.collect::<Result<Vec<_>>>()?;
    let own: [(&str, &Path); 2] = [
        ("POLYQUIC_PACKAGE", &package),
        ("POLYQUIC_SITE", &directory),
    ];
    for (name, value) in own.iter().chain(environment) {
        let value = value.to_str().context("a path that is not UTF-8")?;
        variables.push(((*name).to_owned(), value.to_owned()));
    }
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in &variables {
        script += &format!("export {name}={}\n", quote(value));
    }
    // A session of its own is a scheduling group of its own, as the native peers have.
    let main = directory.join("peer.js");
    let main = main.to_str().context("a path that is not UTF-8")?;
    script += &format!("exec setsid node {} \"$@\"\n", quote(main));
    let program = directory.join("peer");
    fs::write(&program, script)?;
    #[cfg(unix)]
    fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    Ok(program)
}

/// Compiles for WebAssembly, and says where the modules are.
fn compile(target: &Path, toolchain: Toolchain, what: &[&str]) -> Result<PathBuf> {
    // A directory of its own: another compiler would have cargo build everything anew each time.
    let directory = target.join("wasm");
    let mut cargo = toolchain.cargo()?;
    cargo
        .args(what)
        .args(["--profile", PROFILE, "--target-dir"])
        .arg(&directory);
    command::run(cargo)?;
    Ok(directory.join(toolchain::TARGET).join(PROFILE))
}

/// Puts the package together, and says where it is.
fn assemble(root: &Path, target: &Path, module: &Path, bindgen: &Path) -> Result<PathBuf> {
    let package = target.join("npm/polyquic");
    if package.exists() {
        fs::remove_dir_all(&package)?;
    }
    copy(&root.join("crates/js/npm"), &package)?;
    let out = package.join("wasm");
    generate(bindgen, module, &out, "polyquic")?;
    // wasm-opt would make it smaller by no more than a hundredth, compressed; and binaryen 108, which
    // Debian 12 has, breaks its tables.
    let wasm = out.join("polyquic_bg.wasm");
    let from = imports::modules(&fs::read(&wasm)?)?;
    ensure!(
        from.iter().all(|name| name != "env"),
        "the module imports from \"env\": something was linked in that is not there in JavaScript"
    );
    Ok(package)
}

/// Makes the JavaScript that goes with `module`.
fn generate(bindgen: &Path, module: &Path, out: &Path, name: &str) -> Result<()> {
    let mut generate = Command::new(bindgen);
    generate.arg(module).arg(out).arg(name);
    command::run(generate)
}

/// Builds the conformance suite for Node, and says where it is.
fn conformance(target: &Path, toolchain: Toolchain, bindgen: &Path) -> Result<PathBuf> {
    let what = ["--package", "polyquic-wasm", "--example", "conformance"];
    let modules = compile(target, toolchain, &what)?;
    let out = target.join("npm/conformance");
    let module = modules.join("examples/conformance.wasm");
    generate(bindgen, &module, &out, "conformance")?;
    // Its JavaScript is a module, too.
    fs::write(out.join("package.json"), "{ \"type\": \"module\" }\n")?;
    Ok(out)
}

/// Builds what makes the JavaScript, unless it is there, and says where it is.
fn bindgen(root: &Path, target: &Path) -> Result<PathBuf> {
    let workspace = root.join("crates/js/bindgen");
    let ours = locked(&root.join("Cargo.lock"), "wasm-bindgen")?;
    let theirs = locked(&workspace.join("Cargo.lock"), "wasm-bindgen-cli-support")?;
    ensure!(
        ours == theirs,
        "Cargo.lock has wasm-bindgen {ours}, but crates/js/bindgen has {theirs}: \
         write {ours} into crates/js/bindgen/Cargo.toml, and run `cargo update` there"
    );
    let directory = target.join("bindgen");
    let mut cargo = command::cargo(&["build", "--quiet", "--locked", "--target-dir"])?;
    cargo.arg(&directory).current_dir(workspace);
    command::run(cargo)?;
    Ok(directory
        .join("debug")
        .join(format!("polyquic-bindgen{}", env::consts::EXE_SUFFIX)))
}

/// The version of `package` in a lock file.
fn locked(file: &Path, package: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    version(&text, package)
        .with_context(|| format!("{} has no {package}", file.display()))
        .map(str::to_owned)
}

fn version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines
        .nth(1)?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

/// Has the packages of `xtask/npm/NAME`, each in the version that the lock file has, in a directory for them
/// alone; installs them unless they are there. Says where the modules are.
fn npm(root: &Path, name: &str, install: bool) -> Result<PathBuf> {
    let tools = root.join("target/npm-tools").join(name);
    let modules = tools.join("node_modules");
    let wanted = root.join("xtask/npm").join(name);
    // Copied last, so that what is there is complete.
    let done = modules.join("installed.json");
    let lock = fs::read(wanted.join("package-lock.json"))?;
    if fs::read(&done).is_ok_and(|it| it == lock) {
        return Ok(modules);
    }
    ensure!(
        install,
        "the packages of {} are not in {}",
        wanted.display(),
        tools.display()
    );
    copy(&wanted, &tools)?;
    patience::retry(&format!("{name}, by npm"), || {
        let mut npm = Command::new("npm");
        // What is built when it is installed would be one more thing to fail; nothing of it is needed.
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&tools);
        patience::run_within(npm, NPM_LIMIT)
    })?;
    fs::write(&done, lock)?;
    Ok(modules)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Says how large what a browser loads is.
fn report(root: &Path, package: &Path, toolchain: Toolchain, test: bool) -> Result<()> {
    let Some(loaded) = size::Loaded::of(package)? else {
        let bytes = fs::metadata(package.join("wasm/polyquic_bg.wasm"))?.len();
        println!("the module has {bytes} bytes (with Node, this would say more)");
        return Ok(());
    };
    loaded.print();
    loaded.check_budget()?;
    // Another compiler makes another size, and who only builds may be about to change it.
    if test && toolchain == Toolchain::Ours {
        loaded.check_told(root)?;
    }
    Ok(())
}

/// What the tests are about.
struct Tested {
    /// The JavaScript package.
    package: PathBuf,
    /// The conformance suite, as a package for Node.
    suite: PathBuf,
    /// The page of docs/browser with the package.
    site: PathBuf,
    /// The native program.
    program: PathBuf,
}

/// Builds the native program, and says where it is.
fn program(root: &Path) -> Result<PathBuf> {
    let mut cargo = command::cargo(&["build", "--package", "polyquic-cli"])?;
    cargo.env_remove("CARGO_TARGET_DIR");
    command::run(cargo)?;
    Ok(root.join(format!("target/debug/polyquic{}", env::consts::EXE_SUFFIX)))
}

/// Runs the tests in Node, some of which drive a browser.
fn test(root: &Path, tested: &Tested, options: &Options) -> Result<()> {
    let mut node = Command::new("node");
    browser::prepare(root, &mut node, options.install)?;
    let compiler = npm(root, "typescript", options.install)?;
    node.current_dir(root.join("crates/js/tests"))
        .env("POLYQUIC_TSC", compiler.join("typescript/lib/tsc.js"))
        .env("POLYQUIC_PACKAGE", &tested.package)
        .env("POLYQUIC_CONFORMANCE", &tested.suite)
        .env("POLYQUIC_PROGRAM", &tested.program)
        .env("POLYQUIC_SITE", &tested.site)
        // For the tests of the relay's client: Node has a WebSocket since version 22.
        .args(["--experimental-websocket", "--test"])
        .args(["--test-reporter", "spec"])
        // Some transfer much, and each has a time limit: they should not slow each other down.
        .args(["--test-concurrency", "1"])
        .arg(format!("--test-timeout={}", FILE_LIMIT.as_millis()))
        .args(&options.rest);
    patience::run_within(node, TESTS_LIMIT).context("tests of the JavaScript package")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_the_whole_name() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"2\"\n\n[[package]]\nname = \"a\"\nversion = \"1.0\"\n";
        assert_eq!(version(lock, "a"), Some("1.0"));
        assert_eq!(version(lock, "b"), None);
    }
}
