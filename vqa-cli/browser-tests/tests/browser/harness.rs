//! Tests of the test harness itself.

use crate::browser::in_browser;
use crate::world::Server;

#[test]
fn what_goes_wrong_in_a_page_is_noticed() {
    in_browser(async |page| {
        let server = Server::start("");
        page.open(&server.url).await;
        page.js("setTimeout(() => { throw new Error('thrown') })").await;
        page.js("Promise.reject(new Error('rejected'))").await;
        page.js("console.error('said')").await;
        page.js("fetch('/api/nothing')").await;
        page.js("document.body.setAttribute('style', 'color: red')").await;
        page.js("const script = document.createElement('script'); script.text = '1'; document.body.append(script)")
            .await;
        // Resources from other hosts would be reported too, but are not even requested.
        page.js("document.createElement('img').src = 'http://127.0.0.1:1/elsewhere.png'").await;
        page.js("return new Promise((done) => setTimeout(done, 300))").await;
        let errors = page.take_errors().await;
        for words in ["thrown", "rejected", "said", "404", "inline style", "inline script", "elsewhere.png"] {
            assert_eq!(errors.iter().filter(|error| error.contains(words)).count(), 1, "{words}: {errors:#?}");
        }
        assert_eq!(errors.len(), 7, "{errors:#?}");
    });
}
