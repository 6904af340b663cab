//! HTML pages that need nothing else: no scripts, no fonts, no network; readable in light and dark.
//!
//! Reading order: [`html`] (documents, sections, tables, the stylesheet), [`chart`] (curves and bars as SVG), [`heat`]
//! (heat maps as PNG), [`run`] (the metrics of a training run), [`run_page`] (runs as a page). The page of a program's
//! report is in the crate of the reports.

pub mod chart;
pub mod heat;
pub mod html;
pub mod run;
pub mod run_page;
