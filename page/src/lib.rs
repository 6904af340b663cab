//! HTML pages that need nothing else: no fonts, no network; readable in light and dark, and without scripts.
//!
//! Reading order: [`html`] (documents, sections, tables, the stylesheet), [`bars`] and [`chart`] (SVG
//! charts), [`heat`] (heat maps), [`run`] (the metrics of a training run), [`speedup`] (of a run over
//! another one), [`task_metrics`], [`run_page`] (the page of training runs), [`mod@visible`] (control
//! characters). The page of a program's report is in the crate `report`.

pub mod bars;
pub mod chart;
pub mod heat;
pub mod html;
pub mod run;
pub mod run_page;
pub mod speedup;
pub mod task_metrics;
pub mod visible;
