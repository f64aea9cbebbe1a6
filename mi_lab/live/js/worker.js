/** The worker of pages that load modules; in one-file pages `export.bundle` makes it from the page's own text. */

import { serve } from "./serve.js";

serve(/** @type {any} */ (globalThis));
