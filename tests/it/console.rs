//! The console in a real browser, on the real gateway with the roles and the mini bundle in one process.

mod desk;
mod pages;

use serde_json::Value;

use desk::Desk;

use crate::program::{repository, subject};

/// Follows what the first picture's place shows, in the order in which it is shown.
const FOLLOW: &str = "
    window.shown = [];
    new MutationObserver(() => {
        const image = document.querySelector('.shot img');
        if (image && window.shown.at(-1)?.[0] !== image.dataset.scale) {
            const canvas = Object.assign(document.createElement('canvas'), { width: 64, height: 64 });
            canvas.getContext('2d').drawImage(image, 0, 0, 64, 64);
            window.shown.push([image.dataset.scale, canvas.toDataURL()]);
        }
    }).observe(document.getElementById('main'), { childList: true, subtree: true });";

/// What makes markup of text, or what the page's policy refuses.
const FORBIDDEN: [&str; 7] =
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function", "style=", "onclick="];

/// The largest sum of the console's files, in bytes.
const BUDGET: u64 = 60_000;

#[test]
fn the_console_is_small_and_has_nothing_that_its_policy_forbids() {
    let folder = std::fs::read_dir(repository("crates/gateway/console")).expect("the folder is there");
    let mut sum = 0;
    for file in folder {
        let path = file.expect("the folder is readable").path();
        let text = std::fs::read_to_string(&path).expect("all files are text");
        sum += text.len() as u64;
        for forbidden in FORBIDDEN {
            assert!(!text.contains(forbidden), "{} has {forbidden}", path.display());
        }
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(longest <= 128, "{}: a line of {longest} characters", path.display());
    }
    assert!(sum < BUDGET, "the console has {sum} bytes; the limit is {BUDGET}");
}

/// Fills the form of the playground.
async fn ask(desk: &Desk, prompt: &str, pictures: u32) {
    let browser = &desk.browser;
    browser.wait("document.getElementById('prompt') !== null").await.expect("the form is there");
    let picture = std::fs::canonicalize(subject("mug.png")).expect("the picture is there");
    browser.type_into("#subject", &picture.display().to_string()).await.expect("a picture is chosen");
    browser.wait("document.querySelector('.look img') !== null").await.expect("the picture is stored");
    for (field, value) in [("prompt", prompt), ("count", &pictures.to_string())] {
        let fill = format!(
            "const field = document.getElementById('{field}');
             field.value = '{value}';
             field.dispatchEvent(new Event('input', {{ bubbles: true }}));"
        );
        browser.run(&fill).await.expect("the form is filled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_sharpens_scale_by_scale() {
    let desk = Desk::open().await;
    let browser = &desk.browser;
    browser.type_into("#key", "eg_wrongkey").await.unwrap();
    browser.click(".primary").await.unwrap();
    desk.expect("document.querySelector('.notice')?.innerText.includes('This key is not accepted')").await;
    browser.run("document.getElementById('key').value = ''").await.unwrap();
    desk.sign_in().await;
    ask(&desk, "a mug on a beach", 2).await;
    browser.run(FOLLOW).await.unwrap();
    browser.press("\u{E009}").await.unwrap();
    browser.click("form .primary").await.unwrap();
    desk.expect("document.querySelectorAll('.shot img[data-scale=Infinity]').length === 2").await;
    let shown = browser.run("return window.shown").await.unwrap();
    let shown: Vec<(String, String)> = serde_json::from_value(shown).unwrap();
    let (last, previews) = shown.split_last().unwrap();
    assert_eq!(last.0, "Infinity");
    let scales: Vec<u32> = previews.iter().map(|(scale, _)| scale.parse().unwrap()).collect();
    assert!(scales.len() >= 3 && scales.is_sorted(), "{scales:?}");
    let mut pictures: Vec<&String> = shown.iter().map(|(_, picture)| picture).collect();
    pictures.sort_unstable();
    pictures.dedup();
    assert_eq!(pictures.len(), shown.len(), "each picture differs from those before");
    let size = browser.run("return document.querySelector('.shot img').naturalWidth").await.unwrap();
    assert_eq!(size, Value::from(128));
    desk.expect("document.querySelector('.badge').innerText === 'completed'").await;
    desk.no_complaints().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_asked_again_changed_and_deleted() {
    let desk = Desk::signed_in().await;
    let browser = &desk.browser;
    ask(&desk, "a mug in the snow", 64).await;
    browser.click("form .primary").await.unwrap();
    desk.press_button("Cancel").await;
    desk.expect("document.querySelector('.badge').innerText === 'cancelled'").await;
    // The job's own page, by its exact id.
    let id = browser.run("return document.querySelector('.between a').innerText").await.unwrap();
    let id = id.as_str().unwrap().to_owned();
    browser.press("/").await.unwrap();
    browser.type_into("#search", &format!("{id}\n")).await.unwrap();
    desk.expect(&format!("location.hash === '#/job/{id}'")).await;
    desk.expect("document.querySelector('h1').innerText === 'a mug in the snow'").await;
    desk.press_button("Again").await;
    desk.expect("['queued', 'running'].includes(document.querySelector('.badge').innerText)").await;
    desk.press_button("Cancel").await;
    desk.expect("document.querySelector('.badge').innerText === 'cancelled'").await;
    // The same request, with changes.
    browser.click("a.button").await.unwrap();
    desk.expect("document.getElementById('prompt')?.value === 'a mug in the snow'").await;
    desk.expect("document.getElementById('count').value === '64'").await;
    desk.expect("document.querySelector('.look img')?.naturalWidth === 256").await;
    browser.run("document.getElementById('count').value = 1").await.unwrap();
    browser.click("form .primary").await.unwrap();
    desk.expect("document.querySelector('.shot img[data-scale=Infinity]') !== null").await;
    // The first one goes, after a question.
    desk.go(&format!("job/{id}")).await;
    desk.press_button("Delete").await;
    desk.press_button("Keep").await;
    desk.expect("document.querySelector('dialog') === null && document.querySelector('.badge') !== null").await;
    desk.press_button("Delete").await;
    browser.click("dialog .danger").await.unwrap();
    desk.expect("location.hash === '#/jobs'").await;
    desk.go(&format!("job/{id}")).await;
    desk.expect("document.querySelector('h1').innerText === 'No such job'").await;
    desk.no_complaints().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_stranger_is_not_found_and_a_session_that_ended_returns_to_where_it_was() {
    let desk = Desk::signed_in().await;
    let foreign = desk.job_of_a_stranger().await;
    desk.go(&format!("job/{foreign}")).await;
    desk.expect("document.querySelector('h1').innerText === 'No such job'").await;
    let text = desk.browser.run("return document.body.innerText").await.unwrap();
    assert!(!text.as_str().unwrap().contains("secret garden"), "{text}");
    desk.go("usage").await;
    desk.expect("document.getElementById('from') !== null").await;
    desk.browser.run_async("fetch('/v1/session', { method: 'DELETE' }).then(arguments[0])").await.unwrap();
    desk.browser.reload().await.unwrap();
    desk.sign_in().await;
    desk.expect("location.hash === '#/usage' && document.getElementById('from') !== null").await;
    desk.no_complaints().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_job_is_seen_although_the_gateway_was_killed_meanwhile() {
    let mut desk = Desk::signed_in().await;
    ask(&desk, "a mug on a mountain", 16).await;
    desk.browser.click("form .primary").await.unwrap();
    desk.expect("document.querySelector('.badge.running') !== null").await;
    desk.kill_and_restart();
    desk.expect("document.querySelectorAll('.shot img[data-scale=Infinity]').length === 16").await;
    desk.expect("document.querySelector('.badge').innerText === 'completed'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_redriven_by_their_exact_number() {
    let desk = Desk::signed_in().await;
    let parked = desk.parked_jobs(3).await;
    desk.go("dead-letters").await;
    desk.expect("document.querySelectorAll('tbody tr').length === 3").await;
    desk.browser.type_into("#job", &parked[0]).await.unwrap();
    desk.press_button("Filter").await;
    desk.expect("document.querySelectorAll('tbody tr').length === 1").await;
    desk.press_button("Redrive …").await;
    desk.expect("document.querySelector('dialog h2')?.innerText === 'Redrive 1?'").await;
    desk.press_button("Cancel").await;
    desk.browser.run("document.getElementById('job').value = ''").await.unwrap();
    desk.press_button("Redrive …").await;
    desk.expect("document.querySelector('dialog h2')?.innerText === 'Redrive 3?'").await;
    desk.browser.click("dialog .danger").await.unwrap();
    desk.expect("document.querySelector('p.completed')?.innerText === '3 redriven.'").await;
    desk.expect("document.querySelector('dialog') === null").await;
    desk.no_complaints().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_are_one_list() {
    let desk = Desk::signed_in().await;
    let browser = &desk.browser;
    // Ten thousand records would take minutes to make; what is tested is the page.
    let pretend = "
        const all = Array.from({ length: 10000 }, (_, at) => ({ id: `acme.j-${at}`, status: 'completed', prompt: `prompt ${at}`,
            lane: 'bulk', created: '2026-11-30T12:00:00Z', images: [] }));
        const real = window.fetch;
        window.fetch = async (path, options) => {
            const url = new URL(path, location);
            if (url.pathname !== '/v1/jobs') return real(path, options);
            const from = Number(url.searchParams.get('after') ?? 0), size = Number(url.searchParams.get('limit'));
            const next = from + size < all.length ? String(from + size) : null;
            return new Response(JSON.stringify({ data: all.slice(from, from + size), next }),
                { headers: { 'content-type': 'application/json' } });
        };";
    browser.run(pretend).await.unwrap();
    desk.go("jobs").await;
    desk.expect("document.querySelector('.rows a')?.innerText === 'prompt 0'").await;
    // As fast as pages come, the end is scrolled to.
    desk.expect("(scrollTo(0, 1e9), document.querySelector('[href=\"#/job/acme.j-9999\"]') !== null)").await;
    let drawn = browser.run("return document.querySelectorAll('.rows tr').length").await.unwrap();
    assert!(drawn.as_u64().unwrap() < 100, "{drawn} rows are drawn");
    let counted = browser.run("return document.querySelector('.rows').getAttribute('aria-rowcount')").await.unwrap();
    assert_eq!(counted, Value::from("10001"));
    // What has the focus keeps it while rows come and go around it.
    browser.run("document.querySelector('[href=\"#/job/acme.j-9990\"]').focus()").await.unwrap();
    browser.run("document.querySelector('.rows').firstDrawn = document.querySelector('.rows a')").await.unwrap();
    browser.run("scrollBy(0, -200)").await.unwrap();
    desk.expect("!document.querySelector('.rows').firstDrawn.isConnected").await;
    desk.expect("document.activeElement.getAttribute('href') === '#/job/acme.j-9990'").await;
    browser.type_into("#search", "prompt 123").await.unwrap();
    desk.expect("document.querySelector('.rows').getAttribute('aria-rowcount') === '12'").await;
    desk.no_complaints().await;
}
