//! Every page: reachable by keys, without faults of accessibility, in light and dark, and as wide as a phone.

use serde_json::Value;

use super::{ask, desk::Desk};

/// The pages and the keys that open them.
const PAGES: [(&str, &str); 8] = [
    ("playground", "gp"),
    ("jobs", "gj"),
    ("batches", "gb"),
    ("usage", "gu"),
    ("queues", "gq"),
    ("dead-letters", "gd"),
    ("workers", "gw"),
    ("tenants", "gt"),
];

const BATCH: &str = "{\"prompt\": \"a mug on a table\", \"subject\": {\"image\": \"IMAGE\"}}\n{\"prompt\": 7}\n";

/// What axe finds wrong with the page, one line each.
async fn violations(desk: &Desk) -> Vec<String> {
    desk.browser.run(&desk.axe).await.expect("the browser answers");
    let script = "
        const done = arguments[0];
        const text = (one) => `${one.id}: ${one.nodes.map((node) => node.target).join(', ')}`;
        axe.run().then(({ violations }) => done(violations.map(text)), (error) => done([String(error)]));";
    serde_json::from_value(desk.browser.run_async(script).await.expect("the browser answers"))
        .expect("the browser answers")
}

/// Looks at the page in both colours, and in the width of a phone.
async fn check(desk: &Desk, page: &str) {
    let browser = &desk.browser;
    for colours in ["dark", "light"] {
        browser.prefer_colours(colours).await.expect("the browser answers");
        assert_eq!(violations(desk).await, Vec::<String>::new(), "{page}, {colours}");
    }
    browser.resize(400, 800).await.expect("the browser answers");
    let width = browser.run("return document.documentElement.scrollWidth").await.expect("the browser answers");
    assert!(width.as_u64().expect("the browser answers") <= 400, "{page} is {width} wide on a page of 400");
    browser.resize(1_200, 900).await.expect("the browser answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_in_light_and_dark_and_fits_a_phone() {
    let desk = Desk::open().await;
    check(&desk, "sign-in").await;
    desk.sign_in().await;
    ask(&desk, "a mug on a beach", 2).await;
    desk.browser.click("form .primary").await.unwrap();
    desk.expect("document.querySelectorAll('.shot img[data-scale=Infinity]').length === 2").await;
    desk.browser.click("summary").await.unwrap();
    check(&desk, "playground with pictures").await;
    desk.keep_screenshot("console-playground").await;
    let id = desk.browser.run("return document.querySelector('.between a').innerText").await.unwrap();
    desk.go(&format!("job/{}", id.as_str().unwrap())).await;
    desk.expect("document.querySelector('.box rect') !== null && document.querySelector('.chart svg') !== null").await;
    check(&desk, "job").await;
    desk.keep_screenshot("console-job").await;
    for (page, keys) in PAGES {
        desk.browser.press(keys).await.unwrap();
        desk.expect(&format!("location.hash === '#/{page}'")).await;
        desk.expect("document.querySelector('#main .card, #main .rows, #main .empty') !== null").await;
        check(&desk, page).await;
    }
    desk.browser.press("?").await.unwrap();
    desk.expect("document.querySelector('dialog') !== null").await;
    check(&desk, "shortcuts").await;
    desk.no_complaints().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_names_the_lines_that_it_refuses_and_runs_the_others() {
    let desk = Desk::signed_in().await;
    let stored = desk.store("mug.png").await;
    let file = desk.folder.write("jobs.jsonl", BATCH.replace("IMAGE", &stored));
    desk.go("batches").await;
    desk.browser.type_into("#batch", &file.display().to_string()).await.unwrap();
    desk.expect("document.querySelector('#main')?.innerText.includes('1 jobs accepted, 1 lines refused')").await;
    let line =
        desk.browser.run("return document.querySelector('[aria-label=\"Refused lines\"] td').innerText").await.unwrap();
    assert_eq!(line, Value::from("2"));
    desk.expect("document.querySelector('[aria-label=Batches]')?.innerText.includes('1 of 1')").await;
    desk.no_complaints().await;
}
