// A browser does not let a page that is opened from disk read another one, so search results there have no excerpts.
if (typeof DOCUMENTATION_OPTIONS !== "undefined" && location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Paper has no folds: open them for printing, and close them again.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("main details:not([open])")];
  opened.forEach((fold) => (fold.open = true));
});
addEventListener("afterprint", () => opened.forEach((fold) => (fold.open = false)));

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
  typeset.then(() =>
    document.querySelectorAll("mjx-container[display='true'], .cell_output > *, .text_html").forEach((part) => {
      if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    }),
  );
});
