//! Sink: listens to the parser's building of a tree, and builds none.
//!
//! The parser needs to know what its nodes are called and which is which; nobody needs their children. So a page of any
//! size takes the memory of its open elements and of its links.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use html5ever::tendril::StrTendril;
use html5ever::tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::{Attribute, ExpandedName, QualName, local_name, ns};

use super::MAX_LINK_BYTES;

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The first `<base href>`.
    pub(super) base: Option<String>,
    /// The first charset that a `<meta>` names.
    pub(super) charset: Option<String>,
    /// As they are written, each once, in the order in which they stand in the page.
    pub(super) links: Vec<Rc<str>>,
    /// The same, to be found.
    known: HashSet<Rc<str>>,
}

#[derive(Debug, Default)]
pub(super) struct Sink {
    found: RefCell<Found>,
    deepest: Cell<u32>,
    made: Cell<usize>,
}

/// A node of the tree that is not built.
#[derive(Debug)]
pub(super) struct Node {
    /// Empty where it is no element.
    name: QualName,
    says: RefCell<Says>,
    depth: Cell<u32>,
    /// Within a template: not part of the page before some script makes it so.
    is_inert: Cell<bool>,
}

/// What an element tells once it has its place. A tendril is shared with the parser: an element that is made anew takes
/// no room for its link.
#[derive(Debug)]
enum Says {
    Nothing,
    Base(StrTendril),
    Link(StrTendril),
    Charset(String),
}

impl Found {
    /// Notes a link. A link that is left open comes again in every block that follows.
    fn link(&mut self, href: &str) {
        // It is the last one then, and need not be looked up.
        let is_last = self.links.last().is_some_and(|last| **last == *href);
        if is_last || self.known.contains(href) {
            return;
        }
        let href: Rc<str> = href.into();
        self.known.insert(Rc::clone(&href));
        self.links.push(href);
    }
}

impl Node {
    fn new(name: QualName, says: Says) -> Rc<Self> {
        Rc::new(Self { name, says: RefCell::new(says), depth: Cell::default(), is_inert: Cell::default() })
    }

    fn without_name() -> Rc<Self> {
        Self::new(QualName::new(None, ns!(), local_name!("")), Says::Nothing)
    }

    fn is_template(&self) -> bool {
        self.name.ns == ns!(html) && self.name.local == local_name!("template")
    }
}

impl Sink {
    /// How deep elements lay within each other, at most.
    pub(super) fn depth(&self) -> u32 {
        self.deepest.get()
    }

    /// How many elements and attributes there were, made anew or not.
    pub(super) fn made(&self) -> usize {
        self.made.get()
    }

    /// A node has its place, `deeper` than another.
    fn placed(&self, beside: &Node, deeper: u32, child: NodeOrText<Rc<Node>>) {
        let NodeOrText::AppendNode(node) = child else { return };
        node.depth.set(beside.depth.get() + deeper);
        self.deepest.set(self.deepest.get().max(node.depth.get()));
        node.is_inert.set(beside.is_inert.get());
        let says = node.says.replace(Says::Nothing);
        if node.is_inert.get() {
            return;
        }
        let mut found = self.found.borrow_mut();
        match says {
            Says::Nothing => {}
            Says::Link(href) => found.link(&href),
            Says::Base(href) => drop(found.base.get_or_insert_with(|| href.to_string())),
            Says::Charset(charset) => drop(found.charset.get_or_insert(charset)),
        }
    }
}

/// What an element's attributes tell.
fn says(name: &QualName, attributes: &[Attribute]) -> Says {
    let value = |wanted: &str| attributes.iter().find(|a| &*a.name.local == wanted).map(|a| &a.value);
    let link = || {
        let href = value("href").filter(|href| href.len() <= MAX_LINK_BYTES);
        href.map_or(Says::Nothing, |href| Says::Link(href.clone()))
    };
    let is_html = name.ns == ns!(html);
    match &*name.local {
        // SVG has links of that name too.
        "a" => link(),
        "area" if is_html => link(),
        "base" if is_html => value("href").map_or(Says::Nothing, |href| Says::Base(href.clone())),
        "meta" if is_html => {
            let by_type = || {
                value("http-equiv").filter(|kind| kind.eq_ignore_ascii_case("content-type"))?;
                super::charset::of_content_type(value("content")?).map(str::to_owned)
            };
            value("charset").map(|charset| charset.to_string()).or_else(by_type).map_or(Says::Nothing, Says::Charset)
        }
        _ => Says::Nothing,
    }
}

impl TreeSink for Sink {
    type Handle = Rc<Node>;
    type Output = Found;
    type ElemName<'a> = ExpandedName<'a>;

    fn finish(self) -> Found {
        self.found.into_inner()
    }

    fn get_document(&self) -> Rc<Node> {
        Node::without_name()
    }

    fn elem_name<'a>(&'a self, node: &'a Rc<Node>) -> ExpandedName<'a> {
        node.name.expanded()
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _flags: ElementFlags) -> Rc<Node> {
        self.made.set(self.made.get() + 1 + attributes.len());
        let says = says(&name, &attributes);
        Node::new(name, says)
    }

    fn create_comment(&self, _text: StrTendril) -> Rc<Node> {
        Node::without_name()
    }

    fn create_pi(&self, _target: StrTendril, _data: StrTendril) -> Rc<Node> {
        Node::without_name()
    }

    fn append(&self, parent: &Rc<Node>, child: NodeOrText<Rc<Node>>) {
        self.placed(parent, 1, child);
    }

    fn append_based_on_parent_node(&self, element: &Rc<Node>, _previous: &Rc<Node>, child: NodeOrText<Rc<Node>>) {
        // Out of a table, to stand before it.
        self.placed(element, 0, child);
    }

    fn append_before_sibling(&self, sibling: &Rc<Node>, child: NodeOrText<Rc<Node>>) {
        self.placed(sibling, 0, child);
    }

    fn get_template_contents(&self, template: &Rc<Node>) -> Rc<Node> {
        debug_assert!(template.is_template(), "as the parser promises");
        let contents = Node::without_name();
        contents.is_inert.set(true);
        contents.depth.set(template.depth.get());
        contents
    }

    fn same_node(&self, one: &Rc<Node>, other: &Rc<Node>) -> bool {
        Rc::ptr_eq(one, other)
    }

    fn parse_error(&self, _message: Cow<'static, str>) {}
    fn append_doctype_to_document(&self, _name: StrTendril, _public: StrTendril, _system: StrTendril) {}
    fn set_quirks_mode(&self, _mode: QuirksMode) {}
    fn add_attrs_if_missing(&self, _node: &Rc<Node>, _attributes: Vec<Attribute>) {}
    fn remove_from_parent(&self, _node: &Rc<Node>) {}
    fn reparent_children(&self, _node: &Rc<Node>, _new: &Rc<Node>) {}
}
