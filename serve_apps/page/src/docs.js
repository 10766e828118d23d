// The documentation of an application's HTTP API: Swagger UI shows its openapi.json.

import "swagger-ui-dist/swagger-ui.css";
import SwaggerUI from "swagger-ui-dist/swagger-ui-bundle.js";

SwaggerUI({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
