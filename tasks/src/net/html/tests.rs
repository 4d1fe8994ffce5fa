use super::*;

fn urls_in(page: &[u8], charset: Option<&str>) -> Vec<String> {
    let at = "https://host/dir/page.html?q=1".parse().unwrap();
    let links = links(page, charset, &at, &|| false).unwrap();
    links.urls.iter().map(Url::to_string).collect()
}

fn urls(page: &str) -> Vec<String> {
    urls_in(page.as_bytes(), Some("utf-8"))
}

#[test]
fn links_are_absolute_in_their_order_and_come_once() {
    let page = r#"<!doctype html><a href="/b">b</a> <A HREF=a>a</A> <a href='//other/c'>c</a>
        <a href="/b">again</a> <map><area href="?q=2"></map> <a href="../up#x">up</a> <a href="">self</a>"#;
    assert_eq!(
        urls(page),
        [
            "https://host/b",
            "https://host/dir/a",
            "https://other/c",
            "https://host/dir/page.html?q=2",
            "https://host/up#x",
            "https://host/dir/page.html?q=1",
        ]
    );
}

#[test]
fn only_the_web_counts() {
    let page = "<a href=mailto:a@b>m</a><a href='javascript:alert(1)'>j</a><a href=ftp://h/>f</a><a name=x>n</a>
        <a href=data:text/html,x>d</a><a href=http://[bad/>b</a><a href=https://ok/>ok</a>";
    assert_eq!(urls(page), ["https://ok/"]);
}

#[test]
fn what_looks_like_a_link_and_is_none_is_none() {
    let page = "<title><a href=/title></title><!-- <a href=/comment> --><script>'<a href=/script>'</script>
        <style><a href=/style></style><textarea><a href=/textarea></textarea><iframe><a href=/iframe></iframe>
        <template><a href=/template></a><div><a href=/within></a></div></template>
        <xmp><a href=/xmp></xmp><noscript><a href=/noscript>shown</a></noscript>
        <p title='<a href=/attribute>'><a data-x=1 href = \"/ real \" >text</a><plaintext><a href=/plain>";
    assert_eq!(urls(page), ["https://host/noscript", "https://host/%20real"]);
}

#[test]
fn broken_pages_are_read_as_browsers_do() {
    for (page, links) in [
        ("<a href=/unclosed", &[][..]),
        (
            "<a href='/1'><a href='/2'><b><p><a href=/3></b></p>",
            &["https://host/1", "https://host/2", "https://host/3"],
        ),
        ("<table><a href=/out><tr><td><a href=/in></table>", &["https://host/out", "https://host/in"]),
        (
            "<svg><title><a href=/foreign></a></title><a xlink:href=/svg></a></svg>",
            &["https://host/foreign", "https://host/svg"],
        ),
        ("<a href=/x&amp;y>&<a href='/&#228;'>", &["https://host/x&y", "https://host/%C3%A4"]),
        ("<a href=/first href=/second>", &["https://host/first"]),
        ("<a href='/new\nline\t'>\0<a href=/nul>", &["https://host/newline", "https://host/nul"]),
        ("", &[]),
        ("no html at all", &[]),
    ] {
        assert_eq!(urls(page), links, "{page}");
    }
}

#[test]
fn the_first_base_holds_for_the_whole_page() {
    let page = "<a href=before></a><base target=_top><base href=/base/deep.html><base href=/second/><a href=after></a>";
    assert_eq!(urls(page), ["https://host/base/before", "https://host/base/after"]);
    assert_eq!(urls("<base href=https://cdn.example/x/><a href=y>"), ["https://cdn.example/x/y"]);
    for bad in ["data:text/plain,x", "javascript:x", "http://[", "mailto:a"] {
        assert_eq!(urls(&format!("<base href='{bad}'><a href=y>")), ["https://host/dir/y"], "{bad}");
    }
}

#[test]
fn the_bytes_of_a_page_are_read_in_its_charset() {
    let link = |path: &str| vec![format!("https://host/{path}")];
    assert_eq!(urls_in(b"<a href='/\xe4'>", Some("iso-8859-1")), link("%C3%A4"));
    assert_eq!(urls_in(b"<meta charset=windows-1251><a href='/\xe4'>", None), link("%D0%B4"));
    let by_type = b"<meta http-equiv=Content-Type content='text/html; charset=koi8-r'><a href='/\xe4'>";
    assert_eq!(urls_in(by_type, None), link("%D0%94"));
    assert_eq!(urls_in("<a href='/ä'>".as_bytes(), None), link("%C3%A4"));
    assert_eq!(urls_in(b"<a href='/\xe4'>", None), link("%C3%A4"), "neither said nor UTF-8");
    assert_eq!(urls_in("\u{feff}<a href='/ä'>".as_bytes(), Some("iso-8859-1")), link("%C3%A4"), "a mark wins");
    let utf_16: Vec<u8> = "\u{feff}<a href='/ä'>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(urls_in(&utf_16, None), link("%C3%A4"));
}

#[test]
fn a_hostile_page_ends_soon() {
    let deep = "<div>".repeat(1 << 20);
    let at: Url = "https://host/".parse().unwrap();
    assert_eq!(links(deep.as_bytes(), None, &at, &|| false).unwrap_err().kind, "html");

    let base = format!("<base href='/{}/'>", "x".repeat(5000));
    let many: String = (0..5000).map(|n| format!("<a href={n}>")).collect();
    let cut = links((base + &many).as_bytes(), None, &at, &|| false).unwrap();
    assert!(cut.is_cut && cut.urls.len() < 500, "{}", cut.urls.len());

    assert_eq!(links(b"<p>", None, &at, &|| true).unwrap_err().kind, "stopped");

    let attributes: String = (0..100_000).map(|n| format!(" a{n}")).collect();
    let one_tag = format!("<a{attributes}>");
    let refused = parse_within(Duration::from_millis(100), &one_tag, &|| false).err().unwrap();
    assert_eq!(refused.kind, "html", "{refused}");
}

#[test]
fn a_link_that_is_left_open_is_made_anew_in_every_block_and_found_once() {
    let blocks = "<div>x</div>".repeat(5000);
    let page = |bytes: usize| format!("<div><a href='/{}'></div>{blocks}", "x".repeat(bytes));

    let found = parse(&page(1000), &|| false).unwrap();
    let too_long = parse(&page(200_000), &|| false).unwrap();

    assert_eq!(found.links.len(), 1);
    assert_eq!(too_long.links.len(), 0, "no server takes it");
}

#[test]
fn a_link_that_comes_again_after_another_keeps_its_first_place() {
    let page = "<a href=1></a><a href=2></a><a href=1></a>";

    let found = parse(page, &|| false).unwrap();

    assert_eq!(found.links.iter().map(|link| &**link).collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn a_page_that_leaves_much_open_is_given_up_and_one_that_leaves_a_little_is_read() {
    let page = |left_open: usize, blocks: usize| {
        let open: String = (0..left_open).map(|n| format!("<b x={n}>")).collect();
        format!("<div>{open}</div>{}<a href=/last>", "<div>x</div>".repeat(blocks))
    };
    let at: Url = "https://host/".parse().unwrap();

    let hostile = links(page(1000, 20_000).as_bytes(), None, &at, &|| false).unwrap_err();

    assert_eq!((&*hostile.kind, hostile.retryable), ("html", false));
    assert!(hostile.message.contains("made anew too often"), "{hostile}");
    assert_eq!(urls(&page(30, 2000)), ["https://host/last"]);
}
