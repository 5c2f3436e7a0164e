# Reference figures of R's survival and cmprsk for the cohorts in a folder of CSV files, as JSON on standard output.
#   Rscript tests/survival/r_figures.R FOLDER
# Columns: months, event (0 censored, 1 failure, 2 death without it), group, x1, x2, risk, weight, horizon (constant).
suppressMessages({library(survival); library(cmprsk)})

number <- function(x) paste0("[", paste(ifelse(is.finite(x), formatC(as.numeric(x), digits = 12, format = "g", width = 1), "null"),
                                        collapse = ", "), "]")
json <- function(x) paste0("{", paste0('"', names(x), '": ', unlist(x), collapse = ", "), "}")

incidence <- function(d, horizon) {
  d$state <- factor(d$event, 0:2, c("censored", "failure", "death"))
  fit <- survfit(Surv(months, state) ~ 1, data = d, conf.type = "log-log", influence = TRUE)
  cause <- which(fit$states == "failure")
  # Months lost: the area under the incidence, and the root of the sum of the squared areas under the influences.
  steps <- diff(pmin(c(0, fit$time, Inf), horizon))
  lost <- c(sum(steps * c(0, fit$pstate[, cause])), sqrt(sum((fit$influence.pstate[, , cause] %*% steps)^2)))
  list(times = number(fit$time), incidence = number(fit$pstate[, cause]),
       standard_error = number(fit$std.err[, cause]), low = number(fit$lower[, cause]),
       high = number(fit$upper[, cause]), lost = number(lost),
       cuminc = number(timepoints(cuminc(d$months, d$event), fit$time)$est["1 1", ]))
}

kaplan <- function(d, horizon) {
  fit <- survfit(Surv(months, event == 1) ~ 1, data = d, conf.type = "log-log")
  mean <- summary(fit, rmean = horizon)$table[c("rmean", "se(rmean)")]
  list(km = number(fit$surv), km_error = number(fit$std.err * fit$surv), km_low = number(fit$lower),
       km_high = number(fit$upper), free = number(mean))
}

comparison <- function(d) {
  rank <- survdiff(Surv(months, event == 1) ~ group, data = d)
  gray <- if (any(d$event == 2)) cuminc(d$months, d$event, d$group)$Tests["1", c("stat", "pv")] else c(NA, NA)
  list(logrank = number(c(rank$chisq, pchisq(rank$chisq, length(rank$n) - 1, lower.tail = FALSE))), gray = number(gray))
}

regression <- function(d, horizon) {
  x <- as.matrix(d[, c("x1", "x2")])
  exact <- coxph.control(eps = 1e-11, iter.max = 50)
  cox <- coxph(Surv(months, event == 1) ~ x1 + x2, data = d, control = exact)
  out <- list(cox = number(coef(cox)), cox_error = number(sqrt(diag(vcov(cox)))), cox_loglik = number(cox$loglik[2]))
  weighted <- coxph(Surv(months, event == 1) ~ x1 + x2, data = d, weights = weight, robust = TRUE, control = exact)
  # Half of theta times the squared coefficients of the scaled covariates.
  ridged <- coxph(Surv(months, event == 1) ~ ridge(x1, x2, theta = 0.01 * nrow(d)), data = d, control = exact)
  out <- c(out, list(weighted = number(coef(weighted)), weighted_error = number(sqrt(diag(vcov(weighted)))),
                     ridged = number(coef(ridged)), ridged_error = number(sqrt(diag(ridged$var)))))
  tied <- coxph(Surv(months, event == 1) ~ x1 + x2, data = d, ties = "breslow", control = exact)
  ahead <- summary(survfit(tied, newdata = d[1:5, ], ctype = 1), times = horizon)
  out <- c(out, list(hazard = number(ahead$cumhaz), hazard_error = number(ahead$std.chaz)))
  if (!any(d$event == 2)) return(out)
  # Censorings a little later, so that no event ties with one: cmprsk and survival then mean the same weights.
  moved <- d$months + ifelse(d$event == 0, 1e-3, 0)
  fg <- crr(moved, d$event, x, gtol = 1e-13, maxiter = 50)
  d$state <- factor(d$event, 0:2)
  wide <- finegray(Surv(months, state) ~ ., data = d[, c("months", "state", "x1", "x2")], etype = "1")
  tied <- coxph(Surv(fgstart, fgstop, fgstatus) ~ x1 + x2, weights = fgwt, data = wide, ties = "breslow",
                control = exact)
  c(out, list(crr = number(fg$coef), crr_error = number(sqrt(diag(fg$var))), crr_loglik = number(fg$loglik),
              crr_predicted = number(tail(predict(fg, x[1:5, ])[fg$uftime <= horizon, , drop = FALSE], 1)[1, -1]),
              finegray = number(coef(tied)), finegray_loglik = number(tied$loglik[2])))
}

concordances <- function(d) {
  never <- ifelse(d$event == 2, max(d$months) + 1, d$months)
  harrell <- concordance(Surv(never, event == 1) ~ risk, data = d, reverse = TRUE)$concordance
  uno <- concordance(Surv(months, event == 1) ~ risk, data = d, reverse = TRUE, timewt = "n/G2")$concordance
  list(harrell = number(harrell), uno_cause_specific = number(uno))
}

calibration <- function(d, horizon) {
  d$state <- factor(d$event, 0:2)
  at <- function(rows) {
    fit <- survfit(Surv(months, state) ~ 1, data = d[rows, ], se.fit = FALSE)
    if (!"1" %in% fit$states) return(0)
    summary(fit, times = min(horizon, max(d$months[rows])))$pstate[1, which(fit$states == "1")]
  }
  n <- nrow(d)
  pseudo <- n * at(1:n) - (n - 1) * sapply(1:n, function(i) at(setdiff(1:n, i)))
  scale <- log(-log(1 - d$risk))
  # Generalised estimating equations with independence and equal variance are this quasi-likelihood.
  equal <- quasi(link = "cloglog", variance = "constant")
  exact <- glm.control(epsilon = 1e-15, maxit = 500)
  slope <- glm(pseudo ~ scale, equal, start = c(0, 1), control = exact)
  level <- glm(pseudo ~ offset(scale), equal, start = 0, control = exact)
  list(pseudo = number(pseudo), slope = number(coef(slope)["scale"]), intercept = number(coef(level)))
}

folder <- commandArgs(TRUE)[1]
names <- sort(sub(".csv", "", list.files(folder, "csv$")))
all <- lapply(names, function(name) {
  d <- read.csv(file.path(folder, paste0(name, ".csv")))
  horizon <- d$horizon[1]
  competing <- if (any(d$event == 2)) incidence(d, horizon) else list()
  json(c(competing, kaplan(d, horizon), comparison(d), regression(d, horizon), concordances(d),
         calibration(d, horizon)))
})
cat("{\n", paste0('"', names, '": ', all, collapse = ",\n"), "\n}\n", sep = "")
