// A browser does not let a page that is opened from disk read another one, so search results there have no excerpts.
if (typeof DOCUMENTATION_OPTIONS !== "undefined" && location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Paper has no folds and does not scroll: open what is folded for printing, make wide formulas smaller, and undo both.
const PAPER = 640; // pixels between the margins of a sheet
let opened = [], smaller = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("main details:not([open])")];
  opened.forEach((fold) => (fold.open = true));
  smaller = [...document.querySelectorAll("mjx-container[display='true'] > svg")]
    .map((formula) => [formula.parentElement, formula.getBoundingClientRect().width])
    .filter(([, width]) => width > PAPER);
  smaller.forEach(([box, width]) => (box.style.zoom = PAPER / width));
});
addEventListener("afterprint", () => {
  opened.forEach((fold) => (fold.open = false));
  smaller.forEach(([box]) => (box.style.zoom = ""));
});

// Names for screen readers that the theme leaves out, or that differ from the text that is seen.
addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".search-button-field").forEach((button) => button.removeAttribute("aria-label"));
  document.querySelectorAll(".bd-sidebar-primary summary").forEach((arrow) => {
    const link = arrow.closest("li").querySelector("a");
    arrow.setAttribute("aria-label", `Pages below ${link ? link.textContent.trim() : "this one"}`);
  });
});
addEventListener("load", () => {
  // Names that differ from the text that is seen, and a role that needs children which docutils does not give.
  document.querySelectorAll("details.hide > summary").forEach((fold) => fold.removeAttribute("aria-label"));
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  // What scrolls can be reached with the keyboard.
  const typeset = window.MathJax && MathJax.startup ? MathJax.startup.promise : Promise.resolve();
  typeset.then(() => {
    document.querySelectorAll("span.math").forEach((part) => {
      if (part.scrollWidth > part.clientWidth + 8) part.classList.add("wide"); // less than that is no part of a letter
    });
    document.querySelectorAll("mjx-container[display='true'], span.wide, .cell_output > *, .text_html").forEach((part) => {
      if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    });
  });
});
